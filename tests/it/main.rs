//! Every scenario against every backend: real processes, sockets and signals.

mod seams;

remuda_conformance::conformance!(mio => "mio");
