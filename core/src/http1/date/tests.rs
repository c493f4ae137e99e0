use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn text(unix: u64) -> String {
    String::from_utf8_lossy(HttpDate::from_unix(unix).as_bytes()).into_owned()
}

#[test]
fn rfc9110_5_6_7_a_date_is_an_imf_fixdate() {
    assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(text(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(text(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(text(253_402_300_799), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn a_year_of_five_digits_is_written_as_the_epoch() {
    assert_eq!(text(253_402_300_800), text(0));
    assert_eq!(text(u64::MAX), text(0));
}

proptest! {
    #[test]
    fn a_date_is_read_back_as_the_second_it_was(unix in 0_u64..=253_402_300_799) {
        let read = httpdate::parse_http_date(&text(unix))?;
        prop_assert_eq!(read.duration_since(UNIX_EPOCH)?, Duration::from_secs(unix));
    }
}
