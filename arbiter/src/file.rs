//! Files by which the server is found: their identity, and whether they still exist.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Device and inode of a file.
pub(crate) type Identity = (u64, u64);

/// What happened to a file by which clients find the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// No file is at its path.
    Gone,
    /// Another file is at its path.
    Replaced,
}

impl Lost {
    /// Checks whether `file` is still at `path`. None if it is, or if the path cannot be examined.
    pub(crate) fn look(path: &Path, file: Identity) -> Option<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == file => None,
            Ok(_) => Some(Self::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Self::Gone),
            Err(_) => None,
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "its file is gone",
            Self::Replaced => "another file is in its place",
        })
    }
}

/// Device and inode of the file at `path`, which is not followed if it is a link.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
