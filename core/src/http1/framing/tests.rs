use proptest::prelude::*;

use super::*;

#[test]
fn a_request_without_framing_has_no_body() {
    let mut none = Decoder::none();
    assert!(none.is_done());
    assert_eq!(none.remaining(), Some(0));
    assert_eq!(none.end_within(b"GET /"), Some(0));
    assert_eq!(none.decode(b"GET /", 10), Ok(Decoded::default()));
}

#[test]
fn rfc9112_6_2_a_length_is_exact_to_the_byte() {
    let mut body = Decoder::length(5);
    assert_eq!(body.decode(b"", 10), Ok(Decoded::default()));
    assert_eq!(body.decode(b"abc", 2), Ok(Decoded { skip: 0, data: 2 }));
    assert_eq!((body.remaining(), body.is_done()), (Some(3), false));
    assert_eq!(
        (body.end_within(b"ab"), body.end_within(b"abc"), body.end_within(b"abcd")),
        (None, Some(3), Some(3))
    );
    assert_eq!(body.decode(b"cdeGET /", usize::MAX), Ok(Decoded { skip: 0, data: 3 }));
    assert!(body.is_done());
    assert_eq!(body.decode(b"GET /", usize::MAX), Ok(Decoded::default()));
}

#[test]
fn a_body_without_framing_never_ends() {
    let mut raw = Decoder::raw();
    assert_eq!(raw.decode(b"abc", 2), Ok(Decoded { skip: 0, data: 2 }));
    assert_eq!((raw.is_done(), raw.remaining(), raw.end_within(b"abc")), (false, None, None));
}

#[test]
fn a_chunked_body_knows_its_rest_only_at_its_end() {
    let mut chunked = Decoder::chunked(16 * 1024);
    assert_eq!((chunked.remaining(), chunked.is_done()), (None, false));
    assert_eq!(chunked.end_within(b"1\r\na\r\n0\r\n\r\nGET"), Some(11));
    assert_eq!(chunked.end_within(b"1\r\na\r\n0\r\n\r"), None);
    assert_eq!(chunked.end_within(b"x"), None);
    assert!(chunked.find_end(b"x").is_err());
    assert_eq!(chunked.decode(b"1\r\na\r\n0\r\n\r\nGET", 9), Ok(Decoded { skip: 3, data: 1 }));
    assert_eq!(chunked.end_within(b"\r\n0\r\n\r\nGET"), Some(7));
    assert_eq!(chunked.decode(b"\r\n0\r\n\r\nGET", 9), Ok(Decoded { skip: 7, data: 0 }));
    assert_eq!(
        (chunked.remaining(), chunked.is_done(), chunked.end_within(b"GET")),
        (Some(0), true, Some(0))
    );
}

#[test]
fn buffered_bytes_are_decoded_once_however_they_arrive() {
    let text = b"3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\nGET";
    let decoder = Decoder::chunked(16 * 1024);
    let mut ahead = BufferedBody::of(&decoder);
    for n in 0..=text.len() {
        // What was there before may be anything now.
        let mut now = text[..n].to_vec();
        now[..n.saturating_sub(1)].fill(b'!');
        let found = ahead.find_end(&now).map(|end| (end, ahead.len()));
        assert_eq!(found, decoder.find_end(&text[..n]), "{n}");
    }
    assert_eq!(ahead.find_end(text), Ok(Some(text.len() - 3)));
    let mut ahead = BufferedBody::of(&Decoder::length(5));
    assert_eq!(ahead.find_end(b"abc"), Ok(None));
    assert_eq!((ahead.find_end(b"!!!defg"), ahead.len()), (Ok(Some(5)), 5));
}

#[test]
fn a_read_of_zero_bytes_consumes_framing_only() {
    let mut chunked = Decoder::chunked(16 * 1024);
    assert_eq!(chunked.decode(b"1\r\na", 0), Ok(Decoded { skip: 3, data: 0 }));
    assert_eq!(chunked.decode(b"a", 0), Ok(Decoded::default()));
    assert_eq!(chunked.decode(b"a", 1), Ok(Decoded { skip: 0, data: 1 }));
}

proptest! {
    #[test]
    fn end_within_a_length_agrees_with_decode(len in 0_u64..40, have in 0_usize..60, max in 1_usize..20) {
        let input = vec![b'x'; have];
        let (mut body, mut at) = (Decoder::length(len), 0);
        let end = body.end_within(&input);
        while let Ok(Decoded { data: 1.., .. }) = body.clone().decode(&input[at..], max) {
            let Decoded { skip, data } = body.decode(&input[at..], max)?;
            prop_assert!(skip == 0 && data <= max);
            at += data;
            prop_assert_eq!(body.remaining(), Some(len - at as u64));
        }
        prop_assert_eq!(end, body.is_done().then_some(at));
    }
}
