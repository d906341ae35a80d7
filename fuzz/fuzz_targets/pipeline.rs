//! Any text is compiled or refused, and what it is compiled to holds together. `cargo fuzz run pipeline`
#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_scheduler::pipeline::compile::{Request, check_syntax, compile};
use slipway_scheduler::pipeline::expression::Expression;
use slipway_scheduler::pipeline::fetch::Nowhere;
use slipway_scheduler::pipeline::regex;
use slipway_scheduler::pipeline::rules::{Event, RefKind};
use slipway_spec::glob::{Doublestar, RubyGlob};
use slipway_spec::variable::Variable;
use slipway_spec::{duration, expand};
use std::collections::HashSet;

fuzz_target!(|text: &str| {
    let predefined = [Variable::public("CI_COMMIT_BRANCH", "main"), Variable::public("CI_PIPELINE_SOURCE", "push")];
    let event = Event {
        source: "push".into(),
        ref_name: "main".into(),
        kind: RefKind::Branch,
        project_path: "group/app".into(),
    };
    let request = Request {
        file: ".gitlab-ci.yml",
        text,
        predefined: &predefined,
        variables: &[],
        event: &event,
        inputs: &[],
    };
    match compile(&request, &Nowhere) {
        Ok(compiled) => {
            let names: HashSet<&str> = compiled.plan.jobs.iter().map(|j| j.name.as_str()).collect();
            assert_eq!(names.len(), compiled.plan.jobs.len());
            for job in &compiled.plan.jobs {
                assert!(job.needs.iter().flatten().all(|n| names.contains(n.job.as_str())));
                assert!(job.artifacts_from.iter().all(|n| names.contains(n.as_str())));
            }
        }
        Err(wrong) => assert!(!wrong.render().is_empty()),
    }
    let _ = check_syntax(".gitlab-ci.yml", text).render();

    // The small languages by themselves: a configuration seldom reaches all of them.
    if let Ok(expression) = Expression::parse(text) {
        let _ = expression.evaluate(&std::collections::HashMap::<String, String>::new());
    }
    let _ = regex::compile(text, "");
    let _ = duration::parse(text);
    if let Ok(glob) = RubyGlob::new(text) {
        let _ = glob.matches("a/b/c.txt");
    }
    if let Ok(glob) = Doublestar::new(text) {
        let _ = glob.takes("a/b/c.txt");
    }
    let _ = expand::expand_for_runner(text, |_| Some("x"));
    let mut variables = [Variable::public("A", text), Variable::public("B", text)];
    let _ = expand::sort_and_expand(&mut variables);
});
