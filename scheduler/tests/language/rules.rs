//! `rules`, `only`, `except`, `workflow`, `changes`, `exists`, `parallel`.

use crate::{node, scope};
use slipway_scheduler::pipeline::changes::{Commit, Files, ListedCommit, NoCommit};
use slipway_scheduler::pipeline::diagnostic::Diagnostics;
use slipway_scheduler::pipeline::matrix;
use slipway_scheduler::pipeline::plan::{AllowFailure, JobWhen, OnNewCommit};
use slipway_scheduler::pipeline::rules::{
    self, Event, Facts, RefKind, RuleKind, RuleWhen, Selection, Verdict, WorkflowVerdict,
};
use std::sync::Arc;

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
    assert_eq!(on_new_commit, Some(OnNewCommit::None));
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
