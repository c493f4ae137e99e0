use super::*;

#[test]
fn every_refusal_has_the_status_of_its_rule() {
    for (refusal, status) in [
        (Refusal::BadRequestLine, 400),
        (Refusal::BadField, 400),
        (Refusal::BadHost, 400),
        (Refusal::BadContentLength, 400),
        (Refusal::AmbiguousFraming, 400),
        (Refusal::BadChunked, 400),
        (Refusal::HeadTimeout, 408),
        (Refusal::BodyTimeout, 408),
        (Refusal::BodyTooLarge, 413),
        (Refusal::UriTooLong, 414),
        (Refusal::UnknownExpectation, 417),
        (Refusal::Misdirected, 421),
        (Refusal::FieldsTooLarge, 431),
        (Refusal::UnknownMethod, 501),
        (Refusal::UnknownTransferCoding, 501),
        (Refusal::UnknownVersion, 505),
    ] {
        assert_eq!(refusal.status(), status, "{refusal}");
    }
}
