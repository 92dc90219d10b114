use super::*;

crate::settings! {
    /// As given.
    pub struct Inner;
    /// As decided.
    #[derive(Debug, PartialEq)]
    pub struct InnerDecided;
    "Inner" {
        /// Size of it
        size_limit: Option<Bytes> = None => { value: "SIZE", otherwise: Some("any"), decides: false },
    }
}

crate::settings! {
    /// As given.
    pub struct Outer;
    /// As decided.
    #[derive(Debug, PartialEq)]
    pub struct OuterDecided;
    "Names" {
        /// What it is
        /// called
        name: String = needed("name")? => { value: "NAME", aliases: &["title"] },
        /// Parts
        parts: Vec<String> = vec!["a".into(), "b".into()] => { value: "PART" },
    }
    "Numbers" {
        /// How fast
        rate_2nd: f64 = 2e-4 => { value: "RATE" },
        /// Twice
        twice: bool = true => { value: "BOOL", off: Some("once") },
    }
    group inner: Inner,
    older "Names" {
        /// What it was
        old_name: String => { value: "NAME" },
    }
}

fn words(settings: &mut Outer, name: &str, words: &[&str]) -> Result<bool, String> {
    settings.put(name, Given::Words(words))
}

#[test]
fn a_definition_is_what_was_declared() {
    let all = Outer::definitions();
    let names: Vec<&str> = all.iter().map(|d| d.name).collect();
    assert_eq!(names, ["name", "parts", "rate-2nd", "twice", "old-name", "size-limit"]);
    assert_eq!((all[0].help, all[0].heading, all[5].heading), ("What it is called", "Names", "Inner"));
    let defaults: Vec<Option<String>> = all.iter().map(|d| d.default_words()).collect();
    let expected = [None, Some("a,b"), Some("2e-4"), Some("true"), None, Some("any")];
    assert_eq!(defaults, expected.map(|d| d.map(str::to_owned)));
    assert_eq!(all.iter().map(|d| d.decides).collect::<Vec<_>>(), [true, true, true, true, true, false]);
    assert!((all[2].check)("fast").is_err() && (all[2].check)("1e-3").is_ok());
}

#[test]
fn words_and_files_give_the_same() {
    let mut given = Outer::default();
    assert_eq!(words(&mut given, "title", &["x"]), Ok(true));
    assert_eq!(words(&mut given, "parts", &["a,b", "c"]), Ok(true));
    assert_eq!(words(&mut given, "rate-2nd", &["3"]), Ok(true));
    assert_eq!(words(&mut given, "twice", &["false"]), Ok(true));
    assert_eq!(words(&mut given, "size-limit", &["9.5GiB"]), Ok(true));
    assert_eq!(words(&mut given, "old-name", &["y"]), Ok(true));
    assert_eq!(words(&mut given, "other", &["y"]), Ok(false));
    assert!(words(&mut given, "twice", &["maybe"]).is_err());
    let file = "title = \"x\"\nparts = [\"a\", \"b\", \"c\"]\nrate-2nd = 3\ntwice = false\nsize-limit = \"9.5GiB\"\n\
                old-name = \"y\"\n";
    assert_eq!(Outer::from_toml(file), Ok(given.clone()));
    let decided = given.resolve().unwrap();
    assert_eq!(decided.inner.size_limit, Some(Bytes(19 << 29)));
    let written = to_toml(&Outer::entries(&decided).unwrap());
    assert_eq!(Outer::from_toml(&written).unwrap().resolve().unwrap(), decided, "{written}");
    assert!(written.contains("size-limit = \"9728MiB\"\n") && written.contains("rate-2nd = 3.0\n"), "{written}");
}

#[test]
fn what_is_given_first_wins_and_what_is_missing_is_named() {
    let flags = Outer::from_toml("name = \"first\"").unwrap();
    let file = Outer::from_toml("name = \"second\"\ntwice = false\nsize-limit = 5").unwrap();
    let decided = flags.or(file).resolve().unwrap();
    assert_eq!((decided.name.as_str(), decided.twice, decided.rate_2nd), ("first", false, 2e-4));
    assert_eq!(decided.inner.size_limit, Some(Bytes(5)));
    let e = Outer::default().resolve().unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().starts_with("`name`: is missing"), "{e}");
}

#[test]
fn errors_of_a_file_name_line_and_key() {
    for (text, line, key, says) in [
        ("\nnames = 1", 2, Some("names"), "is `name` meant?"),
        ("colour = 1", 1, Some("colour"), "there is no such setting"),
        ("twice = false\nrate-2nd = \"high\"", 2, Some("rate-2nd"), "expected f64"),
        ("name = \"a\"\n\ntitle = \"b\"", 3, Some("title"), "`name` is set already"),
        ("name = \"a\"\nname = \"b\"", 2, Some("name"), "duplicate"),
        ("[Numbers]\ntwice = true", 1, Some("Numbers"), "there is no such setting"),
        ("size-limit = 0", 1, Some("size-limit"), "out of range"),
        ("size-limit = \"5 apples\"", 1, Some("size-limit"), "unknown unit `apples`"),
        ("[[[", 1, None, ""),
    ] {
        let e = Outer::from_toml(text).unwrap_err();
        assert_eq!((e.line, e.key.as_deref()), (Some(line), key), "{text:?}: {e}");
        assert!(e.message.contains(says) && !e.to_string().contains('\n'), "{text:?}: {e}");
    }
    let e = Outer::from_file(Path::new("/no/such/run.toml")).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("/no/such/run.toml"), "{e}");
}

#[test]
fn bytes_read_back_as_written() {
    for text in ["20GiB", "9.5GiB", "800MB", "1", "12345", "3TiB", "4k", "7TB"] {
        let bytes: Bytes = text.parse().unwrap();
        assert_eq!(bytes.to_string().parse(), Ok(bytes), "{text}: {bytes}");
    }
    assert_eq!(Bytes::at_least((5 << 30) + 1).to_string(), "5121MiB");
    for text in ["", "GiB", "-5GiB", "0", "1e400GiB", "20GiBB", "5 apples"] {
        assert!(text.parse::<Bytes>().is_err(), "{text}");
    }
}
