//! Configurations made to hurt: each is refused with a sentence, or compiles to something of an ordinary size. That each
//! is over soon, and within how much memory, is seen from outside (`tests/hostile.rs` of the root package).

use crate::cases::Case;
use std::fmt::Write as _;

/// The first message; the configuration must be refused.
fn refused(text: &str) -> String {
    match Case::new(text).compile() {
        Ok(compiled) => panic!("compiled to {} jobs", compiled.plan.jobs.len()),
        Err(wrong) => wrong.messages().first().unwrap_or(&"").to_string(),
    }
}

/// How many jobs it has; it must compile.
fn jobs(text: &str) -> usize {
    match Case::new(text).compile() {
        Ok(compiled) => compiled.plan.jobs.len(),
        Err(wrong) => panic!("{wrong}"),
    }
}

/// Ten anchors, each a list of ten times the one before: ten thousand million leaves.
fn laughs(leaf: &str) -> String {
    let mut text = format!(".l0: &l0 [{}]\n", [leaf; 10].join(", "));
    for i in 1..10 {
        let _ = writeln!(text, ".l{i}: &l{i} [{}]", vec![format!("*l{}", i - 1); 10].join(", "));
    }
    text
}

#[test]
fn hostile_aliases_do_not_multiply() {
    for use_of in ["script: x", "script: *l9", "script: x\n  rules: *l9", "script: x\n  needs: *l9"] {
        let message = refused(&format!("{}j:\n  {use_of}\n", laughs("x")));
        assert!(message.contains("The parsed YAML is too big"), "{use_of}: {message}");
    }
    // Empty lists have no leaves to count.
    let empty = laughs("[]");
    assert!(refused(&format!("{empty}j:\n  script: x\n  rules: *l9\n")).contains("The parsed YAML is too big"));
    // Just below that bound a list of rules is still looked at no further than anybody writes one.
    let mut rules = format!("j:\n  script: x\n  rules: [{}]\n", vec!["*e"; 900].join(", "));
    rules.insert_str(0, &format!(".e: &e [{}]\n", vec!["[]"; 900].join(", ")));
    assert!(refused(&rules).contains("rules should be an array"));
}

#[test]
fn hostile_merge_keys_and_references_do_not_multiply() {
    let mut merge = String::from(".m0: &m0 {a: 1}\n");
    for i in 1..100 {
        let _ = writeln!(merge, ".m{i}: &m{i}\n  <<: [{}]\n  k{i}: 1", vec![format!("*m{}", i - 1); 10].join(", "));
    }
    let message = refused(&format!("{merge}j:\n  <<: *m99\n  script: x\n"));
    assert!(message.contains("The parsed YAML is too big") || message.contains("unknown keys"), "{message}");

    let mut references = String::from(".r0:\n  s: [x, x, x, x]\n");
    for i in 1..40 {
        let one = format!("!reference [.r{}, s]", i - 1);
        let _ = writeln!(references, ".r{i}:\n  s: [{one}, {one}]");
    }
    assert!(!refused(&format!("{references}j:\n  script: !reference [.r39, s]\n")).is_empty());
}

#[test]
fn hostile_nesting_is_refused_without_a_stack() {
    assert!(!refused(&"[".repeat(200_000)).is_empty());
    assert!(!refused(&format!("a: {}", "{a: ".repeat(100_000))).is_empty());
    let mut deep = String::new();
    for i in 0..1500 {
        let _ = writeln!(deep, "{}k:", " ".repeat(i));
    }
    assert!(!refused(&deep).is_empty());
    assert!(!refused(&"- ".repeat(100_000)).is_empty());
    assert!(!refused(&format!("j: {}", "!reference [".repeat(50_000))).is_empty());
    let nested = format!("j:\n  script: {}x{}\n", "[".repeat(50), "]".repeat(50));
    assert!(refused(&nested).contains("nested array of strings up to 10 levels deep"));
}

#[test]
fn hostile_sizes_are_refused() {
    let big = format!("j:\n  script: |\n    {}\n", "x".repeat(100_000_000));
    assert!(refused(&big).contains("The parsed YAML is too big"));
    // Many small things, each legal.
    let mut keys = String::from("variables:\n");
    for i in 0..30_000 {
        let _ = writeln!(keys, "  V{i}: x");
    }
    let _ = writeln!(keys, "j:\n  script: x\n  parallel: 200\nk:\n  script: x\n  parallel: 200");
    assert!(!refused(&keys).is_empty());
    let mut wide = String::new();
    for i in 0..20_000 {
        let _ = writeln!(wide, "j{i}:\n  parallel: 200\n  script: x");
    }
    assert!(!refused(&wide).is_empty());
}

#[test]
fn hostile_includes_end() {
    let looped = "include: a.yml\nj: {script: x}\n#=== a.yml\ninclude: b.yml\n#=== b.yml\ninclude: a.yml\n";
    assert!(refused(looped).contains("circular include"));
    // Each file includes the next one ten times: ten thousand million reads.
    let mut fan = String::from("include: f0.yml\nj: {script: x}\n");
    for i in 0..10 {
        let next = vec![format!("f{}.yml", i + 1); 10].join(", ");
        let _ = write!(fan, "#=== f{i}.yml\ninclude: [{next}]\n");
    }
    fan.push_str("#=== f10.yml\n.x: {script: x}\n");
    assert!(refused(&fan).contains("Maximum of 150 nested includes are allowed!"));
}

#[test]
fn hostile_pattern_on_a_long_text_is_linear() {
    let text =
        format!("j:\n  script: x\n  variables: {{V: {}b}}\n  rules: [{{if: '$V =~ /^(a+)+$/'}}]\n", "a".repeat(20_000));
    assert_eq!(Case::new(&text).compile().unwrap().plan.jobs.len(), 0);
}

#[test]
fn hostile_patterns_without_number_are_refused() {
    let mut many = String::new();
    for i in 0..10_100 {
        let _ = writeln!(many, "j{i}: {{script: x, rules: [{{if: '$V =~ /a{i}/'}}]}}");
    }
    assert!(refused(&many).contains("too many regular expressions"));
}

#[test]
fn hostile_big_patterns_are_refused() {
    let mut big = String::new();
    for i in 0..60 {
        let _ = writeln!(big, "j{i}: {{script: x, rules: [{{if: '$V =~ /{}{i}/'}}]}}", r"\pL".repeat(2));
    }
    assert!(refused(&big).contains("too many regular expressions"));
}

#[test]
fn hostile_expressions_and_globs_are_bounded() {
    let long = format!("j:\n  script: x\n  rules: [{{if: '{}'}}]\n", vec!["$A"; 5_000].join(" || "));
    assert!(refused(&long).contains("invalid expression syntax"));
    let braces = format!("j:\n  script: x\n  rules: [{{changes: ['{}']}}]\n", "{a,b}".repeat(60));
    assert!(refused(&braces).contains("bad pattern"));
}

#[test]
fn hostile_variables_and_needs_are_bounded() {
    let mut doubling = String::from("variables:\n  V0: xxxxxxxxxxxxxxxx\n");
    for i in 1..60 {
        let _ = writeln!(doubling, "  V{i}: $V{}$V{}", i - 1, i - 1);
    }
    assert!(refused(&format!("{doubling}j: {{script: x}}\n")).contains("more than 1048576 bytes"));
    // A long list of needs, shared by many jobs.
    let mut needs = format!(
        ".n: &n [{}]\n",
        vec![
            "{job: a, parallel: {matrix: [{A: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], B: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}]}}";
            500
        ]
        .join(", ")
    );
    needs.push_str("a: {stage: build, script: x}\n");
    for i in 0..3_000 {
        let _ = writeln!(needs, "j{i}: {{script: x, needs: *n}}");
    }
    let message = refused(&needs);
    assert!(message.contains("undefined need") || message.contains("too big"), "{message}");
    let mut rules = format!(".r: {{script: x, rules: [{}]}}\n", vec!["{if: $NOPE}"; 900].join(", "));
    for i in 0..1_200 {
        let _ = writeln!(rules, "j{i}: {{extends: .r}}");
    }
    assert!(refused(&rules).contains("rules altogether"));
}

#[test]
fn hostile_extends_end() {
    let mut chain = String::from(".e0: {script: x}\n");
    for i in 1..2_000 {
        let _ = writeln!(chain, ".e{i}: {{extends: .e{}}}", i - 1);
    }
    // Each base stands before what extends it and is done by then, as in GitLab.
    assert_eq!(jobs(&format!("{chain}j: {{extends: .e1999}}\n")), 1);
    assert!(refused(&format!("j: {{extends: .e1999}}\n{chain}")).contains("nesting too deep in `extends`"));
    let mut wide = String::new();
    for i in 0..9 {
        let bases = vec![format!(".w{}", i + 1); 10].join(", ");
        let _ = writeln!(wide, ".w{i}: {{extends: [{bases}]}}");
    }
    wide.push_str(".w9: {script: x}\nj: {extends: .w0}\n");
    assert_eq!(jobs(&wide), 1);
}

#[test]
fn hostile_bytes_are_refused() {
    for text in [
        "\u{0}",
        "\u{feff}",
        "a: \u{1}",
        "%YAML 9.9\n---\na: b",
        "--- \n--- \n---",
        "&a *a",
        "a: &a [*a]",
        "? [a, b]\n: c",
        "!!binary x",
        "!ruby/object:Foo {}",
    ] {
        assert!(!refused(text).is_empty(), "{text:?}");
    }
}
