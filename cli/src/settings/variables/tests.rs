use super::*;

#[test]
fn variables_have_a_name_and_a_value() {
    let all = |texts: &[&str]| parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(all(&["A=1", "B=x=y", "C="]).unwrap(), [pair("A", "1"), pair("B", "x=y"), pair("C", "")]);
    assert_eq!(all(&["A"]), Err(because(r#""A" is not NAME=VALUE"#)));
    assert_eq!(all(&["=1"]), Err(because(r#""=1" is not NAME=VALUE"#)));
}
