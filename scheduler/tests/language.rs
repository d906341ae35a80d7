//! The evaluation half of the language: expressions, patterns, rules, matrix, needs. Against GitLab's own tables when the
//! conformance folder is there, and against cases of our own.

use slipway_scheduler::pipeline::changes::{Commit, Files, ListedCommit, NoCommit};
use slipway_scheduler::pipeline::diagnostic::Diagnostics;
use slipway_scheduler::pipeline::expression::{self, Expression, MAX_TOKENS, Scope, Value};
use slipway_scheduler::pipeline::fetch::{Fetch, FetchError, Location};
use slipway_scheduler::pipeline::git_tree::{Base, GitTree};
use slipway_scheduler::pipeline::matrix;
use slipway_scheduler::pipeline::needs::{self, GraphJob};
use slipway_scheduler::pipeline::plan::{AllowFailure, JobWhen};
use slipway_scheduler::pipeline::regex::{PatternError, compile};
use slipway_scheduler::pipeline::rules::{
    self, Event, Facts, RefKind, RuleKind, RuleWhen, Selection, Verdict, WorkflowVerdict,
};
use slipway_scheduler::pipeline::tree::{Node, Span};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn string(text: &str) -> String {
    json(text).as_str().unwrap_or_else(|| panic!("{text} is no text")).to_string()
}

/// Variables, and inputs under the key `inputs`.
struct Table(serde_json::Value);

impl Scope for Table {
    fn variable(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn input(&self, name: &str) -> Option<Value<'_>> {
        Some(match self.0.get("inputs")?.get(name)? {
            serde_json::Value::String(s) => Value::Text(s.into()),
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => Value::Number(n.as_f64()?),
            _ => return None,
        })
    }
}

fn value_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => (*n).into(),
        Value::Text(t) => t.to_string().into(),
        Value::Pattern => "a pattern".into(),
    }
}

/// What a row of the table expects, got the same way; `Err` says what differs.
fn expression_row(row: &[&str]) -> Result<(), String> {
    let (mode, text) = (row[2], string(row[3]));
    let (scope, expected) = (Table(json(row[4])), json(row[5]));
    let parsed = Expression::parse(&text);
    let (lexemes, lex_error) = expression::lexemes(&text, MAX_TOKENS);
    let got: serde_json::Value = match mode {
        "evaluate" => {
            let parsed = parsed.map_err(|e| e.to_string())?;
            if row[6] != parsed.is_true(&scope).to_string() {
                return Err(format!("is_true is {}", parsed.is_true(&scope)));
            }
            value_json(&parsed.evaluate(&scope).map_err(|e| e.to_string())?)
        }
        // A syntax error is false at run time.
        "truthful" => parsed.is_ok_and(|e| e.is_true(&scope)).into(),
        "valid" => parsed.is_ok().into(),
        "parse_tree" => parsed.map_err(|e| e.to_string())?.to_string().into(),
        "parse_error" | "regex_build_error" => match parsed {
            Err(e) if e.column >= 1 && e.column <= text.chars().count() + 1 => expected.clone(),
            other => format!("{other:?}").into(),
        },
        "lex_error" => lex_error.map_or("no error".into(), |_| expected.clone()),
        "lex_error_max5" => expression::lexemes(&text, 5).1.map_or("no error".into(), |_| expected.clone()),
        "tokens" => lexemes.into_iter().map(|l| l.text).collect(),
        "lexeme_names" => lexemes.into_iter().map(|l| l.name).collect(),
        "regex_token" => lexemes.into_iter().find(|l| l.name == "pattern").map(|l| l.value).into(),
        "string_token" => lexemes.into_iter().find(|l| l.name == "string").map(|l| l.value).into(),
        "not_a_regex_token" => lexemes.into_iter().find(|l| l.name == "pattern").map(|l| l.value).into(),
        other => return Err(format!("unknown mode {other}")),
    };
    if got == expected { Ok(()) } else { Err(format!("gives {got}, not {expected}")) }
}

#[test]
fn expressions_every_row_of_the_table_agrees() {
    let Some(table) = conformance("expressions.tsv") else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for row in rows(&table) {
        if let Err(e) = expression_row(&row) {
            wrong.push(format!("{} {} {}: {e}", row[0], row[2], row[3]));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 248);
}

#[test]
fn patterns_every_row_of_the_table_agrees() {
    let Some(table) = conformance("ruby-facts/re2.tsv") else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for row in rows(&table) {
        let (pattern, text) = (string(row[0]), string(row[1]));
        let got = match compile(&pattern, "") {
            Ok(regex) => regex.is_match(&text).to_string(),
            Err(_) => "INVALID".into(),
        };
        let want = if row[2].starts_with("INVALID") { "INVALID" } else { row[2] };
        if got != want {
            wrong.push(format!("{pattern:?} on {text:?} gives {got}, not {}; {:?}", row[2], compile(&pattern, "")));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 54);
}

#[test]
fn patterns_own_cases_mean_what_re2_means() {
    let cases = [
        (r"^v\d+\.\d+$", "v1.2", true),
        (r"^v\d+\.\d+$", "v1.2\n", false),
        (r"[\d-]+x", "1-2x", true),
        (r"[a-c-e]", "-", true),
        (r"[\]a]", "]", true),
        (r"\x{41}\101\0", "AA\0", true),
        (r"[[:digit:]x]{2}", "1x", true),
        (r"(?P<1st>a)", "a", true),
        (r"(?i:MAIN)|x", "main", true),
        (r"a{2}?b", "aab", true),
        (r"\Q[a]\E+", "[a]]]", true),
        (r"[^\s]", " ", false),
        (r"\bfoo\b", "a foo b", true),
    ];
    for (pattern, text, want) in cases {
        let regex = compile(pattern, "").unwrap_or_else(|e| panic!("{pattern}: {e}"));
        assert_eq!(regex.is_match(text), want, "{pattern} on {text:?}");
    }
    for bad in ["(?=a)", "a**", "(?x)a", "[b-a]", "[[:nope:]]", r"\8", "(", ")", "a{2,1}", "(?", "[a", r"a\", "(?i)*"] {
        assert!(compile(bad, "").is_err(), "{bad}");
    }
}

#[test]
fn patterns_hostile_ones_are_refused_or_linear() {
    assert!(matches!(compile(&"a".repeat(5000), ""), Err(PatternError::TooLong(5000))));
    assert_eq!(compile("(a{1000}){1000}", "").unwrap_err(), PatternError::TooBig);
    assert!(compile(&"(".repeat(3000), "").is_err());
    assert!(compile(&("(".repeat(1000) + &")".repeat(1000)), "").is_err());
    // Exponential in a backtracking engine.
    let regex = compile("^(a+)+$", "").unwrap();
    assert!(!regex.is_match(&("a".repeat(50_000) + "b")));
}

#[test]
fn expression_errors_say_where_and_what_is_meant() {
    let cases = [
        ("$A = \"x\"", 4, "a comparison is written =="),
        ("${A} == \"x\"", 1, "without braces"),
        ("$A == main", 7, "neither a variable ($main) nor a text (\"main\")"),
        ("$A == 1", 7, "write \"1\""),
        ("$A and $B", 4, "written &&"),
        ("$A & $B", 4, "written &&"),
        ("$A == \"x", 7, "no closing \""),
        ("$A =~ /a/", 7, "at least two characters"),
        ("$A =~ /ab", 7, "no closing /"),
        ("$A =~ /(ab/", 7, "missing )"),
        ("$A ==", 6, "ends where"),
        ("($A", 1, "not closed"),
        ("$A)", 3, "closes nothing"),
        ("$A $B", 4, "an operator"),
        ("", 1, "empty"),
    ];
    for (text, column, what) in cases {
        let error = Expression::parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    let long = vec!["$A"; 60].join(" || ");
    assert!(Expression::parse(&long).unwrap_err().what.contains("more than 99 tokens"));
    assert!(Expression::parse(&"!".repeat(99)).is_err());
    assert!(Expression::parse(&"x".repeat(20_000)).unwrap_err().what.contains("at most"));
}

/// A node of inline YAML-like JSON.
fn node(text: &str) -> Node {
    Node::from_json(&json(text), Span::default())
}

fn scope(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn branch(name: &str, source: &str) -> Event {
    Event { source: source.into(), ref_name: name.into(), kind: RefKind::Branch, project_path: "group/app".into() }
}

/// The verdict of rules in one word and its reason.
fn verdict(rules: &str, variables: &[(&str, &str)], commit: &dyn Commit) -> (String, String) {
    let mut out = Diagnostics::new();
    let rules = rules::parse_rules(&node(rules), "jobs:x", RuleKind::Job, &mut out);
    assert!(!out.has_errors(), "{out}");
    let scope = scope(variables);
    let event = branch("main", "push");
    let facts = Facts { scope: &scope, commit, event: &event };
    let job = Selection { rules: rules.as_deref(), ..Selection::default() };
    describe(rules::decide(&job, facts).unwrap())
}

fn describe(verdict: Verdict) -> (String, String) {
    match verdict {
        Verdict::In(a) => (format!("{:?} {:?}", a.when, a.allow_failure), a.why),
        Verdict::Out(why) => ("out".into(), why),
    }
}

#[test]
fn rules_the_first_that_matches_decides_and_says_why() {
    let rules = r#"[{"if": "$A == \"x\"", "when": "manual"}, {"if": "$B", "when": "never"}, {"allow_failure": true}]"#;
    let cases = [
        (vec![("A", "x")], "Manual No", r#"rule 1: $A == "x" ($A is "x")"#),
        (vec![("B", "1")], "out", r#"rule 2: $B ($B is "1"); it says when: never"#),
        (vec![], "OnSuccess Yes", "rule 3: it has no condition"),
    ];
    for (variables, want, why) in cases {
        assert_eq!(verdict(rules, &variables, &NoCommit), (want.to_string(), why.to_string()));
    }
    let (out, why) = verdict(r#"[{"if": "$A"}, {"if": "$B == null && $C"}]"#, &[], &NoCommit);
    assert_eq!(out, "out");
    assert_eq!(
        why,
        "none of its 2 rules matches; the last: $B == null && $C is not true ($B is not set, $C is not set)"
    );
    assert_eq!(verdict("[]", &[], &NoCommit).1, "its list of rules is empty");
}

#[test]
fn rules_job_level_when_and_allow_failure_are_defaults() {
    let mut out = Diagnostics::new();
    let rules = rules::parse_rules(
        &node(r#"[{"if": "$A"}, {"when": "delayed", "start_in": "1h"}]"#),
        "jobs:x",
        RuleKind::Job,
        &mut out,
    );
    let event = branch("main", "push");
    for (a, when, failure) in [
        ("1", JobWhen::Manual, AllowFailure::ExitCodes(vec![3])),
        ("", JobWhen::Delayed(3600), AllowFailure::ExitCodes(vec![3])),
    ] {
        let scope = scope(&[("A", a)]);
        let facts = Facts { scope: &scope, commit: &NoCommit, event: &event };
        let job = Selection {
            rules: rules.as_deref(),
            when: Some(RuleWhen::Manual),
            allow_failure: Some(AllowFailure::ExitCodes(vec![3])),
            ..Selection::default()
        };
        let Verdict::In(admitted) = rules::decide(&job, facts).unwrap() else { panic!("out") };
        assert_eq!((admitted.when, admitted.allow_failure), (when, failure));
    }
}

#[test]
fn rules_without_any_manual_does_not_block_and_merge_requests_are_left_out() {
    let scope = scope(&[]);
    let mut event = branch("main", "push");
    let manual = Selection { when: Some(RuleWhen::Manual), ..Selection::default() };
    let facts = Facts { scope: &scope, commit: &NoCommit, event: &event };
    assert_eq!(describe(rules::decide(&manual, facts).unwrap()).0, "Manual Yes");
    event.kind = RefKind::MergeRequest;
    let facts = Facts { scope: &scope, commit: &NoCommit, event: &event };
    assert_eq!(describe(rules::decide(&Selection::default(), facts).unwrap()).0, "out");
    let with_workflow = Selection { has_workflow_rules: true, ..Selection::default() };
    assert_eq!(describe(rules::decide(&with_workflow, facts).unwrap()).0, "OnSuccess No");
}

fn listed(changed: Option<&[&str]>, files: &[&str]) -> ListedCommit {
    ListedCommit {
        changed: changed.map(|c| c.iter().map(|s| s.to_string()).collect::<Vec<_>>().into()),
        files: Arc::new(Files::new(files.iter().map(|s| s.to_string()).collect())),
    }
}

#[test]
fn changes_and_exists_look_at_the_commit() {
    let commit = listed(Some(&["docs/a.md", "src/x/y.rs"]), &["Dockerfile", "src/x/y.rs", "docs/a.md"]);
    let cases = [
        (r#"[{"changes": ["src/**/*"]}]"#, true, "src/x/y.rs changed, which matches src/**/*"),
        (r#"[{"changes": ["src/*"]}]"#, false, "none of 2 changed files matches src/*"),
        (r#"[{"changes": {"paths": ["$DIR/*.md"]}}]"#, true, "docs/a.md changed, which matches docs/*.md"),
        (r#"[{"changes": {"regexp": "^docs/"}}]"#, true, "docs/a.md changed"),
        (r#"[{"exists": ["Dockerfile"]}]"#, true, "Dockerfile exists"),
        (r#"[{"exists": ["dockerfile"]}]"#, false, "no file matches dockerfile"),
        (r#"[{"exists": ["**/*.rs"]}]"#, true, "src/x/y.rs exists, which matches **/*.rs"),
        (r#"[{"exists": ["src/"]}]"#, true, "src/ exists"),
        (r#"[{"exists": ["sr/"]}]"#, false, "no file matches sr/"),
        (r#"[{"exists": ["$DIR/a.md"], "if": "$DIR"}]"#, true, "docs/a.md exists"),
        (r#"[{"exists": ["a", "b", "c", "d"]}]"#, false, "a, b, c and 1 more"),
    ];
    for (rules, holds, why) in cases {
        let (word, reason) = verdict(rules, &[("DIR", "docs")], &commit);
        assert_eq!(word != "out", holds, "{rules}: {reason}");
        assert!(reason.contains(why), "{rules}: {reason}");
    }
    let empty = listed(Some(&[]), &[]);
    assert!(verdict(r#"[{"changes": ["**/*"]}]"#, &[], &empty).1.contains("nothing changed"));
    assert!(verdict(r#"[{"changes": ["a"]}]"#, &[], &NoCommit).1.contains("nothing to compare with"));
    let many: Vec<String> = (0..60_000).map(|i| format!("f{i}")).collect();
    let big = ListedCommit { changed: Some(many.clone().into()), files: Arc::new(Files::new(many)) };
    assert!(verdict(r#"[{"changes": ["nope"]}]"#, &[], &big).1.contains("too many"));
    assert!(verdict(r#"[{"exists": ["*.nope"]}]"#, &[], &big).1.contains("too many"));
    assert_eq!(verdict(r#"[{"exists": ["nope"]}]"#, &[], &big).0, "out");
}

#[test]
fn rules_wrong_ones_are_refused_in_gitlabs_words() {
    let cases = [
        (r#"{"if": "$A"}"#, "jobs:x rules should be an array containing hashes and arrays of hashes"),
        (r#"["a"]"#, "jobs:x rules should be an array containing hashes and arrays of hashes"),
        (r#"[{"if": "$A ="}]"#, "jobs:x:rules:rule if invalid expression syntax"),
        (r#"[{"if": 1}]"#, "jobs:x:rules:rule if invalid expression syntax"),
        (r#"[{"when": "sometimes"}]"#, "jobs:x:rules:rule when unknown value: sometimes"),
        (r#"[{"iff": "$A"}]"#, "jobs:x:rules:rule config contains unknown keys: iff"),
        (r#"[{"allow_failure": "x"}]"#, "jobs:x:rules:rule allow failure should be a boolean value"),
        (r#"[{"when": "delayed"}]"#, "jobs:x:rules:rule start in should be a duration"),
        (r#"[{"when": "delayed", "start_in": "2 weeks"}]"#, "jobs:x:rules:rule start in should not exceed the limit"),
        (r#"[{"start_in": "1h"}]"#, "jobs:x:rules:rule start in must be blank"),
        (r#"[{"changes": 1}]"#, "jobs:x:rules:rule:changes config should be an array or a hash"),
        (r#"[{"changes": [1]}]"#, "jobs:x:rules:rule:changes config should be an array of strings"),
        (r#"[{"changes": {"compare_to": "main"}}]"#, "jobs:x:rules:rule:changes config missing required keys: paths"),
        (r#"[{"exists": {"paths": "a"}}]"#, "jobs:x:rules:rule:exists paths should be an array of strings"),
        (r#"[{"exists": {"paths": ["a"], "ref": "main"}}]"#, "jobs:x:rules:rule:exists project can't be blank"),
        (r#"[{"variables": ["A"]}]"#, "jobs:x:rules:rule:variables config should be a hash"),
        (r#"[{"interruptible": 1}]"#, "jobs:x:rules:rule interruptible should be a boolean value"),
        (r#"[{"needs": [1]}]"#, "jobs:x:rules:rule:needs:need has an unsupported type"),
    ];
    for (rules, want) in cases {
        let mut out = Diagnostics::new();
        rules::parse_rules(&node(rules), "jobs:x", RuleKind::Job, &mut out);
        assert_eq!(out.messages(), [want], "{rules}");
    }
    let mut out = Diagnostics::new();
    rules::parse_rules(&node(r#"[{"when": "manual"}, {"needs": []}]"#), "workflow", RuleKind::Workflow, &mut out);
    assert_eq!(
        out.messages(),
        ["workflow:rules:rule when unknown value: manual", "workflow:rules:rule config contains unknown keys: needs"]
    );
    let nested = format!("{}{{\"if\": \"$A\"}}{}", "[".repeat(10), "]".repeat(10));
    let mut out = Diagnostics::new();
    assert_eq!(rules::parse_rules(&node(&nested), "jobs:x", RuleKind::Job, &mut out).unwrap().len(), 1);
    assert!(out.is_empty());
}

#[test]
fn only_and_except_select_refs_sources_variables_and_changes() {
    let tag = Event { kind: RefKind::Tag, ..branch("v1.2", "push") };
    let merge = Event { kind: RefKind::MergeRequest, ..branch("topic", "merge_request_event") };
    let cases = [
        (r#"["main"]"#, branch("main", "push"), true),
        (r#"["main"]"#, branch("maint", "push"), false),
        (r#"["/^main/"]"#, branch("maint", "push"), true),
        (r#"["/^MAIN$/i"]"#, branch("main", "push"), true),
        (r#"["branches"]"#, tag.clone(), false),
        (r#"["tags"]"#, tag.clone(), true),
        (r#"["/^v/"]"#, tag, true),
        (r#"["/^topic/"]"#, merge.clone(), false),
        (r#"["merge_requests"]"#, merge, true),
        (r#"["pushes"]"#, branch("main", "push"), true),
        (r#"["schedules"]"#, branch("main", "schedule"), true),
        (r#"["schedule"]"#, branch("main", "schedule"), true),
        (r#"["web"]"#, branch("main", "web"), true),
        (r#"["main@group/app"]"#, branch("main", "push"), true),
        (r#"["main@other/app"]"#, branch("main", "push"), false),
        (r#"["/a@b/"]"#, branch("xa@by", "push"), true),
        (r#"{"variables": ["$A == \"1\""]}"#, branch("main", "push"), true),
        (r#"{"variables": ["$A == \"2\"", "$B"]}"#, branch("main", "push"), false),
        (r#"{"changes": ["src/**/*"]}"#, branch("main", "push"), true),
        (r#"{"changes": ["docs/*"]}"#, branch("main", "push"), false),
        (r#"{"kubernetes": "active"}"#, branch("main", "push"), false),
    ];
    let scope = scope(&[("A", "1")]);
    let commit = listed(Some(&["src/a.rs"]), &[]);
    for (filter, event, holds) in cases {
        let mut out = Diagnostics::new();
        let parsed = rules::parse_filter(&node(filter), "jobs:x:only", &mut out).unwrap_or_else(|| panic!("{out}"));
        let facts = Facts { scope: &scope, commit: &commit, event: &event };
        let only = Selection { only: Some(&parsed), ..Selection::default() };
        let (word, why) = describe(rules::decide(&only, facts).unwrap());
        assert_eq!(word != "out", holds, "only {filter}: {why}");
        assert!(why.starts_with("only: "), "{why}");
        let except = Selection { except: Some(&parsed), has_workflow_rules: true, ..Selection::default() };
        let (word, why) = describe(rules::decide(&except, facts).unwrap());
        assert_eq!(word == "out", holds, "except {filter}: {why}");
    }
    // With several keys, only wants all of them and except any.
    let mut out = Diagnostics::new();
    let both = node(r#"{"refs": ["main"], "variables": ["$B"]}"#);
    let both = rules::parse_filter(&both, "jobs:x:only", &mut out).unwrap();
    let event = branch("main", "push");
    let facts = Facts { scope: &scope, commit: &commit, event: &event };
    let only = Selection { only: Some(&both), ..Selection::default() };
    let except = Selection { except: Some(&both), ..Selection::default() };
    for job in [only, except] {
        assert_eq!(describe(rules::decide(&job, facts).unwrap()).0, "out");
    }
}

#[test]
fn only_wrong_ones_are_refused_in_gitlabs_words() {
    let refs = "config should be an array of strings or regular expressions using re2 syntax";
    let cases = [
        ("1", "has to be either an array of conditions or a hash".to_string()),
        ("[1, 1]", refs.to_string()),
        (r#"["/*invalid/"]"#, refs.to_string()),
        (r#"{"variables": ["== null"]}"#, "variables invalid expression syntax".into()),
        (r#"{"changes": [1]}"#, "changes should be an array of strings".into()),
        (r#"{"kubernetes": "no"}"#, "kubernetes unknown value: no".into()),
        (r#"{"ref": ["a"]}"#, "config contains unknown keys: ref".into()),
        ("{}", "config can't be blank".into()),
    ];
    for (filter, want) in cases {
        let mut out = Diagnostics::new();
        assert!(rules::parse_filter(&node(filter), "jobs:x:only", &mut out).is_none(), "{filter}");
        assert_eq!(out.messages(), [format!("jobs:x:only {want}")], "{filter}");
    }
}

#[test]
fn workflow_rules_decide_over_the_pipeline() {
    let event = branch("main", "push");
    let decide = |rules: &str, variables: &[(&str, &str)]| {
        let mut out = Diagnostics::new();
        let rules = rules::parse_rules(&node(rules), "workflow", RuleKind::Workflow, &mut out);
        assert!(out.is_empty(), "{out}");
        let scope = scope(variables);
        rules::decide_workflow(rules.as_deref(), Facts { scope: &scope, commit: &NoCommit, event: &event }).unwrap()
    };
    let rules = r#"[{"if": "$SKIP", "when": "never"}, {"if": "$A", "variables": {"B": 2}, "auto_cancel": {"on_new_commit": "none", "on_job_failure": "all"}}]"#;
    let WorkflowVerdict::Filtered(why) = decide(rules, &[("SKIP", "1")]) else { panic!("runs") };
    assert_eq!(why, r#"workflow rule 1: $SKIP ($SKIP is "1"); it says when: never"#);
    let WorkflowVerdict::Filtered(_) = decide(rules, &[]) else { panic!("runs") };
    let WorkflowVerdict::Run { variables, on_new_commit, on_job_failure, .. } = decide(rules, &[("A", "1")]) else {
        panic!("filtered")
    };
    assert_eq!(variables, [("B".to_string(), "2".to_string())]);
    assert_eq!(on_new_commit, Some(slipway_scheduler::pipeline::plan::OnNewCommit::None));
    assert_eq!(on_job_failure, Some(true));
    assert!(matches!(decide("null", &[]), WorkflowVerdict::Run { .. }));
}

#[test]
fn matrix_jobs_are_named_as_gitlab_names_them() {
    let expand = |text: &str| {
        let mut out = Diagnostics::new();
        let parallel = matrix::parse(&node(text), "jobs:x", false, &mut out).unwrap_or_else(|| panic!("{out}"));
        parallel.expand("x")
    };
    let names = |text: &str| expand(text).unwrap().into_iter().map(|i| i.name).collect::<Vec<_>>();
    assert_eq!(names("3"), ["x 1/3", "x 2/3", "x 3/3"]);
    assert_eq!(names("1"), ["x 1/1"]);
    let two = r#"{"matrix": [{"A": ["a", "b"], "B": [1, 2.50]}, {"C": "c"}]}"#;
    assert_eq!(names(two), ["x: [a, 1]", "x: [a, 2.5]", "x: [b, 1]", "x: [b, 2.5]", "x: [c]"]);
    let all = expand(two).unwrap();
    assert_eq!((all[4].index, all[4].total), (5, 5));
    assert_eq!(all[1].variables, [("A".to_string(), "a".to_string()), ("B".to_string(), "2.5".to_string())]);
    assert!(expand(r#"{"matrix": [{"A": "a"}, {"B": "a"}]}"#).unwrap_err().contains("`x: [a]`"));
    for (name, group) in
        [("x 1/3", "x"), ("x: [a, b]", "x"), ("a b", "a b"), ("x 1/y", "x 1/y"), ("a: [b] 2/2", "a: [b]")]
    {
        assert_eq!(matrix::group_name(name), group);
    }
}

#[test]
fn matrix_wrong_ones_are_refused_in_gitlabs_words() {
    let many = format!(r#"{{"matrix": [{{"A": {:?}, "B": {:?}}}]}}"#, vec!["a"; 20], vec!["b"; 20]);
    let cases = [
        ("0", false, "jobs:x:parallel config must be greater than or equal to 1"),
        ("201", false, "jobs:x:parallel config must be less than or equal to 200"),
        (r#""test""#, false, "jobs:x:parallel should be an integer or a hash"),
        ("2", true, "jobs:x:parallel config cannot use \"parallel: <number>\"."),
        (r#"{"matrix": [1]}"#, false, "jobs:x:parallel:matrix config should be an array of hashes"),
        (
            r#"{"matrix": [{"A": {"b": 1}}]}"#,
            false,
            "jobs:x:parallel:matrix:variables config should be a hash of key value pairs, value can be an array",
        ),
        (many.as_str(), false, "jobs:x:parallel:matrix config generates too many jobs (maximum is 200)"),
    ];
    for (text, trigger, want) in cases {
        let mut out = Diagnostics::new();
        assert!(matrix::parse(&node(text), "jobs:x", trigger, &mut out).is_none(), "{text}");
        assert_eq!(out.messages(), [want], "{text}");
    }
}

/// A job for the graph: name, stage, needs, dependencies, artifacts.
struct Job {
    name: String,
    group: String,
    stage: usize,
    needs: Option<Vec<needs::NeedSpec>>,
    dependencies: Option<Vec<(String, Span)>>,
    matrix: Vec<(String, String)>,
}

fn job(name: &str, stage: usize, needs: &str, dependencies: &str) -> Job {
    let mut out = Diagnostics::new();
    let needs = needs::parse_needs(&node(needs), "jobs:x", false, &mut out);
    let dependencies = needs::parse_dependencies(&node(dependencies), "jobs:x", needs.as_deref(), &mut out);
    assert!(out.is_empty(), "{out}");
    Job { name: name.into(), group: matrix::group_name(name).into(), stage, needs, dependencies, matrix: Vec::new() }
}

fn graph(jobs: &[Job]) -> Vec<GraphJob<'_>> {
    jobs.iter()
        .map(|j| GraphJob {
            name: &j.name,
            group: &j.group,
            span: Span::default(),
            stage: j.stage,
            needs: j.needs.as_deref(),
            rule_needs: Vec::new(),
            dependencies: j.dependencies.as_deref(),
            matrix: &j.matrix,
            has_artifacts: !j.name.starts_with("bare"),
        })
        .collect()
}

fn checked(jobs: &[Job]) -> Vec<String> {
    let mut out = Diagnostics::new();
    needs::check(&graph(jobs), &mut out);
    out.messages().into_iter().map(str::to_string).collect()
}

/// `name needs=… from=…` for each job.
fn resolved(jobs: &[Job]) -> Result<Vec<String>, Vec<String>> {
    let mut out = Diagnostics::new();
    let all = needs::resolve(&graph(jobs), &mut out);
    if out.has_errors() {
        return Err(out.messages().into_iter().map(str::to_string).collect());
    }
    let line = |(job, r): (&Job, &needs::Resolved)| {
        let needs =
            r.needs.as_ref().map_or("stage".into(), |n| n.iter().map(|n| n.job.as_str()).collect::<Vec<_>>().join("+"));
        format!("{} after {needs} takes {}", job.name, r.artifacts_from.join("+"))
    };
    Ok(jobs.iter().zip(&all).map(line).collect())
}

#[test]
fn needs_what_is_wrong_is_said_in_gitlabs_words() {
    let n = "null";
    let cases = [
        (vec![job("a", 1, r#"["b"]"#, n)], "a job: undefined need: b"),
        (
            vec![job("a", 0, r#"["b"]"#, n), job("b", 1, n, n)],
            "a job: need b is not defined in current or prior stages",
        ),
        (vec![job("a", 0, r#"["b", {"job": "b"}]"#, n), job("b", 0, n, n)], "a has the following needs duplicated: b."),
        (vec![job("a", 0, r#"["a"]"#, n)], "The pipeline has circular dependencies: self-dependency: a"),
        (
            vec![job("a", 0, r#"["c"]"#, n), job("b", 0, r#"["a"]"#, n), job("c", 0, r#"["b"]"#, n)],
            r#"The pipeline has circular dependencies: topological sort failed: ["a", "c", "b"]"#,
        ),
        (vec![job("a", 1, n, r#"["b"]"#)], "a job: undefined dependency: b"),
        (
            vec![job("a", 1, n, r#"["b"]"#), job("b", 1, n, n)],
            "a job: dependency b is not defined in current or prior stages",
        ),
    ];
    for (jobs, want) in cases {
        assert_eq!(checked(&jobs), [want]);
    }
    let mut many: Vec<Job> = (0..51).map(|i| job(&format!("n{i}"), 0, n, n)).collect();
    let names: Vec<String> = many.iter().map(|j| format!("{:?}", j.name)).collect();
    many.push(job("a", 1, &format!("[{}]", names.join(",")), n));
    assert!(checked(&many)[0].starts_with("a: one job can only need 50 others, but you have listed 51."));
    assert_eq!(checked(&[job("a", 1, r#"[{"job": "b", "optional": true}]"#, n)]), [""; 0]);
}

#[test]
fn needs_long_chains_need_no_stack() {
    let mut jobs = vec![job("j0", 0, "[]", "null")];
    for i in 1..20_000 {
        jobs.push(job(&format!("j{i}"), 0, &format!("[\"j{}\"]", i - 1), "null"));
    }
    assert_eq!(checked(&jobs), [""; 0]);
}

#[test]
fn needs_and_dependencies_decide_whose_artifacts_come() {
    let n = "null";
    let jobs = [
        job("a 1/2", 0, n, n),
        job("a 2/2", 0, n, n),
        job("bare", 0, n, n),
        job("c", 1, n, n),
        job("all", 2, n, n),
        job("none", 2, n, "[]"),
        job("some", 2, n, r#"["a"]"#),
        job("dag", 2, r#"["c", "a 2/2"]"#, n),
        job("order", 2, r#"[{"job": "c", "artifacts": false}, "a"]"#, n),
        job("cut", 2, r#"["a", "c"]"#, r#"["c"]"#),
        job("now", 2, "[]", n),
    ];
    assert_eq!(
        resolved(&jobs).unwrap(),
        [
            "a 1/2 after stage takes ",
            "a 2/2 after stage takes ",
            "bare after stage takes ",
            "c after stage takes a 1/2+a 2/2",
            "all after stage takes a 1/2+a 2/2+c",
            "none after stage takes ",
            "some after stage takes a 1/2+a 2/2",
            "dag after c+a 2/2 takes a 2/2+c",
            "order after c+a 1/2+a 2/2 takes a 1/2+a 2/2",
            "cut after a 1/2+a 2/2+c takes c",
            "now after  takes ",
        ]
    );
}

#[test]
fn needs_of_jobs_that_rules_took_out_stop_the_pipeline_unless_optional() {
    let n = "null";
    let error = resolved(&[job("a", 1, r#"["gone"]"#, n)]).unwrap_err();
    assert_eq!(
        error,
        [
            "'a' job needs 'gone' job, but 'gone' does not exist in the pipeline. This might be because of the only, except, \
          or rules keywords. To need a job that sometimes does not exist in the pipeline, use needs:optional."
        ]
    );
    let optional = [job("a", 1, r#"[{"job": "gone", "optional": true}]"#, n)];
    assert_eq!(resolved(&optional).unwrap(), ["a after  takes "]);
}

#[test]
fn needs_of_a_matrix_name_instances() {
    let n = "null";
    let need = r#"[{"job": "b", "parallel": {"matrix": [{"OS": ["linux"], "ARCH": ["$[[ matrix.ARCH ]]"]}]}}]"#;
    let mut test = job("t: [arm]", 1, need, n);
    test.matrix = vec![("ARCH".into(), "arm".into())];
    let jobs = [job("b: [linux, arm]", 0, n, n), job("b: [linux, amd]", 0, n, n), test];
    assert_eq!(checked(&jobs), [""; 0]);
    assert_eq!(resolved(&jobs).unwrap()[2], "t: [arm] after b: [linux, arm] takes b: [linux, arm]");
    let wrong = [job("b: [linux, arm]", 0, n, n), job("t", 1, need, n)];
    assert!(checked(&wrong)[0].contains("'ARCH' does not exist in the matrix"));
    let missing = r#"[{"job": "b", "parallel": {"matrix": [{"OS": ["bsd"]}]}}]"#;
    assert_eq!(checked(&[job("b: [linux]", 0, n, n), job("t", 1, missing, n)]), ["t job: undefined need: b: [bsd]"]);
}

#[test]
fn needs_wrong_ones_are_refused_in_gitlabs_words() {
    let cases = [
        (r#""build""#, "jobs:x:needs config can only be a hash or an array"),
        ("[1]", "jobs:x:needs:need has an unsupported type"),
        (r#"[{"pipeline": "$ID", "job": "a", "b": 1}]"#, "jobs:x:needs:need config contains unknown keys: b"),
        (r#"[{"job": "a", "artifacts": "yes"}]"#, "jobs:x:needs:need artifacts should be a boolean value"),
        (r#"[{"artifacts": true}]"#, "jobs:x:needs:need job can't be blank"),
        (r#"[{"pipeline": "a/b"}]"#, "jobs:x:needs config uses invalid types: bridge"),
    ];
    for (text, want) in cases {
        let mut out = Diagnostics::new();
        needs::parse_needs(&node(text), "jobs:x", false, &mut out);
        assert_eq!(out.messages(), [want], "{text}");
    }
    let mut out = Diagnostics::new();
    let needs = needs::parse_needs(&node(r#"["a"]"#), "jobs:x", false, &mut out);
    needs::parse_dependencies(&node(r#"["b"]"#), "jobs:x", needs.as_deref(), &mut out);
    needs::parse_dependencies(&node(r#""b""#), "jobs:x", None, &mut out);
    assert_eq!(
        out.messages(),
        ["jobs:x dependencies the b should be part of needs", "jobs:x dependencies should be an array of strings"]
    );
}

/// Commits files on a branch; gives the commit's id.
fn commit(repository: &git2::Repository, branch: &str, parent: Option<&str>, files: &[(&str, &str)]) -> String {
    let parent = parent.map(|p| repository.find_commit(git2::Oid::from_str(p).unwrap()).unwrap());
    let mut index = git2::Index::new().unwrap();
    repository.set_head_detached(parent.as_ref().map_or(git2::Oid::ZERO_SHA1, |p| p.id())).ok();
    let mut entries: Vec<(String, Vec<u8>)> =
        files.iter().map(|(p, t)| (p.to_string(), t.as_bytes().to_vec())).collect();
    entries.sort();
    for (path, text) in entries {
        let id = repository.blob(&text).unwrap();
        let zero = git2::IndexTime::new(0, 0);
        let entry = git2::IndexEntry {
            ctime: zero,
            mtime: zero,
            dev: 0,
            ino: 0,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path: path.into_bytes(),
        };
        index.add(&entry).unwrap();
    }
    let tree = repository.find_tree(index.write_tree_to(repository).unwrap()).unwrap();
    let who = git2::Signature::new("a", "a@b", &git2::Time::new(0, 0)).unwrap();
    let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
    let id = repository.commit(None, &who, &who, "m", &tree, &parents).unwrap();
    repository.reference(&format!("refs/heads/{branch}"), id, true, "").unwrap();
    id.to_string()
}

#[test]
fn git_tree_tells_files_and_changes_of_real_commits() {
    let dir = tempfile::tempdir().unwrap();
    let repository = git2::Repository::init_bare(dir.path()).unwrap();
    let first = commit(&repository, "main", None, &[("a", "1"), ("d/b", "1"), (".gitlab-ci.yml", "x: 1")]);
    let second = commit(&repository, "main", Some(&first), &[("a", "1"), ("d/c", "1"), (".gitlab-ci.yml", "x: 2")]);
    let topic = commit(&repository, "topic", Some(&first), &[("a", "9"), ("d/b", "1"), (".gitlab-ci.yml", "x: 1")]);
    let open = |revision: &str, base| GitTree::open(dir.path(), revision, base).unwrap();

    let main = open("main", Base::Commit(first.clone()));
    assert_eq!(main.commit(), second);
    assert_eq!(main.paths(None).unwrap(), [".gitlab-ci.yml", "a", "d/c"]);
    assert_eq!(main.changes(None).unwrap().unwrap(), [".gitlab-ci.yml", "d/b", "d/c"]);
    let file = |path: &str| Location::File { repository: None, path: path.into() };
    assert_eq!(main.fetch(&file(".gitlab-ci.yml")).unwrap().text, "x: 2");
    assert_eq!(main.fetch(&file("d")), Err(FetchError::Missing));
    assert_eq!(main.fetch(&file("../a")), Err(FetchError::Missing));

    assert_eq!(open(&topic, Base::MergeBase("main".into())).changes(None).unwrap().unwrap(), ["a"]);
    assert_eq!(open("topic", Base::Nothing).changes(Some("main")).unwrap().unwrap(), ["a"]);
    assert_eq!(open("topic", Base::Nothing).changes(None).unwrap(), None);
    assert_eq!(open("topic", Base::Commit("0".repeat(40))).changes(None).unwrap(), None);
    assert!(open("topic", Base::Nothing).changes(Some("nope")).is_err());
    assert!(open("topic", Base::Nothing).changes(Some("main~1")).is_err());
    assert!(GitTree::open(dir.path(), "nope", Base::Nothing).is_err());
}
