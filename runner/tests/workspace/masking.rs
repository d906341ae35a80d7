//! Secrets in a stream.

use proptest::prelude::*;
use slipway_runner::trace::mask::Masker;

fn masked(secrets: &[&str], chunks: &[&[u8]]) -> String {
    let mut masker = Masker::new(secrets, &["myco-"]);
    let mut out = Vec::new();
    for chunk in chunks {
        masker.push(chunk, &mut out);
    }
    masker.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn secrets_tokens_and_parameters_are_hidden() {
    let secrets =
        ["hunter22", "hunter22-and-more", "", "-----BEGIN KEY-----\nabcdefghijklmnopqrstuvwx\n-----END KEY-----"];
    for (text, shown) in [
        ("pw=hunter22.", "pw=[MASKED]."),
        ("hunter22hunter22", "[MASKED][MASKED]"),
        ("longest hunter22-and-more first", "longest [MASKED] first"),
        ("token glpat-AbC_1.2 end", "token glpat-[MASKED] end"),
        ("own myco-xyz, glpat- alone", "own myco-[MASKED], glpat- alone"),
        ("https://x/?private_token=a%20b&x=1", "https://x/?private_token=[MASKED]&x=1"),
        ("X-Amz-Signature=abc/def\"", "X-Amz-Signature=[MASKED]\""),
        ("glpat-abchunter22 x", "glpat-[MASKED] x"),
        ("hunter2 is not it", "hunter2 is not it"),
        ("as lines:\r\n  abcdefghijklmnopqrstuvwx  \r\n", "as lines:\r\n  [MASKED]  \r\n"),
        ("k=-----BEGIN KEY-----\r\nabcdefghijklmnopqrstuvwx\r\n-----END KEY-----!", "k=[MASKED]!"),
    ] {
        assert_eq!(masked(&secrets, &[text.as_bytes()]), shown, "{text}");
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(masked(&secrets, &bytes), shown, "{text}, a byte at a time");
    }
}

#[test]
fn overlapping_secrets_hide_their_union() {
    assert_eq!(masked(&["abcdef", "defghi"], &[b"<abcdefghi>"]), "<[MASKED]>");
    assert_eq!(masked(&["abcdef", "defghi"], &[b"<abcdefg", b"h>"]), "<[MASKED]gh>");
    assert_eq!(masked(&["abcdef", "defghi"], &[b"<abcdefg", b"hi>"]), "<[MASKED]>");
    assert_eq!(masked(&["aa"], &[b"aaaaa."]), "[MASKED].");
}

#[test]
fn only_what_may_become_a_secret_is_held_back() {
    let long = "k".repeat(5000);
    let mut masker = Masker::new(&[long.as_str(), "secret-value"], &[] as &[&str]);
    let mut out = Vec::new();
    masker.push(b"enter a name: ", &mut out);
    assert_eq!(out, b"enter a name: ", "a prompt is seen at once, however long the secrets are");
    masker.push(b"x secret-val", &mut out);
    assert_eq!(out, b"enter a name: x ");
    masker.push(b"id", &mut out);
    assert_eq!(out, b"enter a name: x secret-valid");
    masker.push(&long.as_bytes()[..4999], &mut out);
    assert_eq!(out.len(), 28);
    masker.push(b"k.", &mut out);
    assert_eq!(&out[28..], b"[MASKED].");
}

#[test]
fn more_secrets_than_the_fast_search_takes_are_hidden_too() {
    let secrets: Vec<String> = (0..500).map(|n| format!("value-number-{n}-end")).collect();
    let mut masker = Masker::new(&secrets, &[] as &[&str]);
    let mut out = Vec::new();
    for secret in &secrets {
        masker.push(format!("<{secret}>").as_bytes(), &mut out);
    }
    masker.finish(&mut out);
    assert_eq!(out, b"<[MASKED]>".repeat(500));
}

/// What a masker that sees the whole text at once would hide, written the slow way: every place of every secret.
fn shows_a_secret(shown: &[u8], secrets: &[String]) -> Option<String> {
    secrets.iter().find(|s| shown.windows(s.len()).any(|w| w == s.as_bytes())).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// 1,000 texts of secrets, their beginnings and noise, each split at random: the result is the same as unsplit,
    /// and no secret is in it. The alphabet is small, so that secrets overlap and begin within one another.
    #[test]
    fn no_split_shows_a_secret(
        secrets in prop::collection::vec("[ab\n]{3,12}", 1..8),
        parts in prop::collection::vec((0usize..16, 0usize..12, "[abc \n]{0,6}"), 1..40),
        cuts in prop::collection::vec(0usize..4000, 0..60),
    ) {
        let mut text = Vec::new();
        for (which, end, noise) in &parts {
            if let Some(secret) = secrets.get(*which) {
                text.extend_from_slice(&secret.as_bytes()[..(*end).min(secret.len())]);
                text.extend_from_slice(noise.as_bytes());
                text.extend_from_slice(secret.as_bytes());
            }
            text.extend_from_slice(noise.as_bytes());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let (mut split, mut whole) = (Vec::new(), Vec::new());
        let mut masker = Masker::new(&secrets, &[] as &[&str]);
        for pair in cuts.windows(2) {
            masker.push(&text[pair[0]..pair[1]], &mut split);
            prop_assert_eq!(shows_a_secret(&split, &secrets), None);
        }
        masker.finish(&mut split);
        let mut masker = Masker::new(&secrets, &[] as &[&str]);
        masker.push(&text, &mut whole);
        masker.finish(&mut whole);
        prop_assert_eq!(shows_a_secret(&whole, &secrets), None);
        prop_assert_eq!(String::from_utf8_lossy(&split), String::from_utf8_lossy(&whole));
    }
}
