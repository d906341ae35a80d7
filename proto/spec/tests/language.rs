//! What the pattern, duration, slug and variable languages mean, against tables made by running GitLab's own (when the
//! conformance folder is there) and against cases of our own.

use slipway_spec::duration::{self, DurationError};
use slipway_spec::expand::{self, ExpandError, Undefined};
use slipway_spec::glob::{Doublestar, GlobError, RubyGlob};
use slipway_spec::slug;
use slipway_spec::variable::Variable;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `../shared/conformance` beside the workspace, or beside a folder above it.
fn conformance(file: &str) -> Option<String> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/conformance").join(file))
        .find(|path: &PathBuf| path.is_file());
    match found {
        Some(path) => Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        None => {
            eprintln!("not run: no ../shared/conformance/{file}");
            None
        }
    }
}

/// The rows of a table, heading left out.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().skip(1).filter(|l| !l.is_empty()).map(|l| l.split('\t').collect())
}

fn text(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

#[test]
fn ruby_glob_every_row_of_the_table_agrees() {
    let Some(table) = conformance("ruby-facts/fnmatch.tsv") else { return };
    let mut seen = 0;
    let mut wrong = Vec::new();
    for row in rows(&table) {
        let (pattern, path) = (text(row[0]), text(row[1]));
        let got = RubyGlob::new(&pattern).unwrap().matches(&path);
        if got != (row[2] == "true") {
            wrong.push(format!("{pattern:?} on {path:?} gives {got}"));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 53);
}

#[test]
fn durations_every_row_of_the_table_agrees() {
    let Some(table) = conformance("ruby-facts/durations.tsv") else { return };
    let mut seen = 0;
    let mut wrong = Vec::new();
    for row in rows(&table) {
        let input = text(row[0]);
        let got = duration::parse(&input).ok().map(|d| d.as_secs_f64());
        let want: Option<f64> = row[1].parse().ok();
        if got != want {
            wrong.push(format!("{input:?} gives {got:?}, not {want:?}"));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 107);
}

#[test]
fn slugs_every_row_of_the_table_agrees() {
    let Some(table) = conformance("ruby-facts/slugs.tsv") else { return };
    let mut seen = 0;
    for row in rows(&table) {
        let input = text(row[1]);
        let got = match row[0] {
            "ref_slug" => slug::ref_slug(&input),
            "env_slug" => slug::environment_slug(&input),
            "posix_escape" => slug::posix_escape(&input),
            other => panic!("unknown kind {other}"),
        };
        assert_eq!(got, text(row[2]), "{} of {input:?}", row[0]);
        seen += 1;
    }
    assert_eq!(seen, 34);
}

#[test]
fn ruby_glob_own_cases_match_as_ruby_does() {
    let cases = [
        ("dir/**", "dir/a", true),
        ("dir/**", "dir/a/b", false),
        ("dir/**/*", "dir/a/b", true),
        ("**/*.{js,ts}", "a/b/c.ts", true),
        ("**/*.{js,ts}", "c.jsx", false),
        ("src/**/test_*.py", "src/test_a.py", true),
        ("src/**/test_*.py", "src/a/b/test_a.py", true),
        ("a*b*c", "aXbXbXc", true),
        ("{a", "{a", false),
        ("a}", "a}", true),
        ("[", "[", false),
        ("?", "é", true),
        ("[é-ü]", "ö", true),
    ];
    for (pattern, path, want) in cases {
        assert_eq!(RubyGlob::new(pattern).unwrap().matches(path), want, "{pattern} on {path}");
    }
}

#[test]
fn globs_hostile_patterns_are_refused_or_cheap() {
    let bomb = "{a,b}".repeat(40);
    assert!(matches!(RubyGlob::new(&bomb), Err(GlobError::TooManyAlternatives(_))));
    assert!(matches!(Doublestar::new(&bomb), Err(GlobError::TooManyAlternatives(_))));
    assert!(matches!(RubyGlob::new(&"a".repeat(5000)), Err(GlobError::TooLong(5000))));
    // Exponential in a naive matcher: neither finishes in a lifetime there.
    let stars = "*a".repeat(500);
    assert!(!RubyGlob::new(&stars).unwrap().matches("a".repeat(400) + "b"));
    let deep = "**/a/".repeat(200) + "b";
    assert!(!Doublestar::new(&deep).unwrap().matches(vec!["a"; 300].join("/")));
}

#[test]
fn doublestar_cases_match_as_the_runner_does() {
    let cases = [
        ("dir/**", "dir/a/b", true),
        ("dir/**", "dir/a", true),
        ("**/*.xml", "a/b/c.xml", true),
        ("**/*.xml", "c.xml", true),
        ("*.xml", "a/c.xml", false),
        ("a/**/c", "a/c", true),
        ("a/**/c", "a/x/y/c", true),
        ("build/*", "build/x/y", false),
        ("ab{c,d,*}", "abcde", true),
        ("a**b", "axxb", true),
        ("a**b", "a/b", false),
        ("a?b", "a☺b", true),
        ("[x\\-]", "-", true),
        ("*b?c*x", "abxbbxdbxebxczzx", true),
        ("./out/", "out", true),
        (".*", ".env", true),
        ("*", ".env", true),
        ("a/\\**", "a/b/c", false),
    ];
    for (pattern, path, want) in cases {
        assert_eq!(Doublestar::new(pattern).unwrap().matches(path), want, "{pattern} on {path}");
    }
    for incomplete in ["\\", "[", "a[", "[^bc", "ab{c,d", "a}"] {
        assert!(matches!(Doublestar::new(incomplete), Err(GlobError::Incomplete(_))), "{incomplete}");
    }
}

#[test]
fn doublestar_takes_directories_whole_and_says_where_to_start() {
    let out = Doublestar::new("out/").unwrap();
    assert!(out.takes("out/a/b"));
    assert!(!out.takes("outer/a"));
    assert!(Doublestar::new("target/*/deps").unwrap().takes("target/debug/deps/x/y.o"));
    assert!(Doublestar::new(".").unwrap().takes("a/b"));
    assert_eq!(Doublestar::new("a/b/*.txt").unwrap().base(), "a/b");
    assert_eq!(Doublestar::new("**/x").unwrap().base(), "");
    assert_eq!(Doublestar::new("a/b").unwrap().base(), "a/b");
}

#[test]
fn duration_own_cases_and_errors_say_what_is_wrong() {
    let seconds = |t: &str| duration::parse(t).map(|d| d.as_secs_f64());
    assert_eq!(seconds("1h 30m"), Ok(5400.0));
    assert_eq!(seconds("2 weeks and 3 days"), Ok(1_468_800.0));
    assert_eq!(seconds("1:30"), Ok(90.0));
    assert_eq!(seconds("two hundred seconds"), Ok(200.0));
    assert_eq!(duration::parse("7 elephants"), Err(DurationError::UnknownWord { word: "elephants".into() }));
    assert_eq!(duration::parse("0"), Err(DurationError::Empty("0".into())));
    assert!(matches!(duration::parse("1:2:3:4:5:6:7"), Err(DurationError::TooLong(_))));
    assert!(duration::parse(&"9".repeat(200)).is_err());
    assert!(matches!(duration::parse(&"1h".repeat(200)), Err(DurationError::TooLong(_))));
}

fn list(pairs: &[(&str, &str)]) -> Vec<Variable> {
    pairs.iter().map(|(k, v)| Variable::public(*k, *v)).collect()
}

fn expanded(pairs: &[(&str, &str)]) -> Result<Vec<String>, ExpandError> {
    let mut variables = list(pairs);
    expand::sort_and_expand(&mut variables)?;
    Ok(variables.into_iter().map(|v| v.value).collect())
}

#[test]
fn server_expansion_sorts_by_dependency_and_keeps_what_it_does_not_know() {
    assert_eq!(expanded(&[("A", "$B/${C}"), ("B", "b-%C%"), ("C", "c")]).unwrap(), ["b-c/c", "b-c", "c"]);
    assert_eq!(expanded(&[("A", "$$B ${X} $Y ${A:-x}"), ("B", "b")]).unwrap(), ["$$B ${X} $Y ${A:-x}", "b"]);
    assert_eq!(expanded(&[("A", "100%"), ("B", "%%A%% $A")]).unwrap(), ["100%", "%%A%% 100%"]);
}

#[test]
fn server_expansion_of_an_own_name_means_the_entry_before() {
    assert_eq!(expanded(&[("P", "/bin"), ("P", "$P:/opt")]).unwrap(), ["/bin", "/bin:/opt"]);
    assert_eq!(expanded(&[("P", "$P:/opt")]).unwrap(), ["$P:/opt"]);
    // Others see the last.
    assert_eq!(expanded(&[("P", "1"), ("Q", "$P"), ("P", "2")]).unwrap(), ["1", "2", "2"]);
}

#[test]
fn server_expansion_leaves_raw_and_file_variables_to_the_runner() {
    let mut variables = list(&[("A", "$R $F"), ("R", "$A"), ("F", "secret text")]);
    variables[1].raw = true;
    variables[2].file = true;
    expand::sort_and_expand(&mut variables).unwrap();
    assert_eq!(variables[0].value, "$R $F");
    assert_eq!(variables[1].value, "$A");
}

#[test]
fn server_expansion_circles_are_errors_that_name_them() {
    let error = expanded(&[("X", "$A"), ("A", "$B"), ("B", "$C"), ("C", "$A")]).unwrap_err();
    assert_eq!(error, ExpandError::Circular { names: vec!["A".into(), "B".into(), "C".into()] });
    assert_eq!(error.to_string(), r#"circular variable reference detected: ["A", "B", "C"]"#);
}

#[test]
fn server_expansion_of_a_bomb_is_refused() {
    let mut variables = vec![Variable::public("V0", "x".repeat(64))];
    for i in 1..40 {
        variables.push(Variable::public(format!("V{i}"), format!("$V{} $V{}", i - 1, i - 1)));
    }
    assert!(matches!(expand::sort_and_expand(&mut variables), Err(ExpandError::TooLong { .. })));
}

#[test]
fn runner_expansion_is_one_pass_and_forgets_what_it_does_not_know() {
    let values = HashMap::from([("A", "1"), ("B", "$A")]);
    let run = |t: &str| expand::expand_for_runner(t, |name| values.get(name).copied());
    assert_eq!(run("$A ${A} $B $$A $X|${X}|${A:-x}| $1 $@ $?"), "1 1 $A $A |||   ");
    assert_eq!(run("cost: 5$ and $ x"), "cost: 5$ and $ x");
    assert_eq!(run("${} ${A"), " A");
    assert_eq!(run("%A% é$A"), "%A% é1");
}

#[test]
fn server_expansion_of_fields_removes_what_is_unknown_when_asked() {
    let values = HashMap::from([("A", "1")]);
    let run = |t: &str, u| expand::expand_for_server(t, u, |name| values.get(name).copied());
    assert_eq!(run("$A-$X-%A%-$$A", Undefined::Remove), "1--1-$$A");
    assert_eq!(run("$A-$X-$", Undefined::Keep), "1-$X-$");
    assert_eq!(expand::references("$A ${B} %C% $$D ${E:-x}").collect::<Vec<_>>(), ["A", "B", "C"]);
}
