//! GitLab's verdict and text for a configuration.

use crate::conformance;
use crate::world::World;
use slipway_scheduler::pipeline::compile::check_syntax;
use slipway_scheduler::pipeline::diagnostic::{Diagnostics, Severity};

/// The configuration of a row: JSON, which is YAML, or raw text.
fn text(column: &str) -> String {
    match column.strip_prefix("RAW:") {
        Some(raw) => serde_json::from_str(raw).expect("raw text is JSON"),
        None => column.to_string(),
    }
}

/// Whether a row's message was said.
fn said(kind: &str, expected: &str, messages: &[String]) -> bool {
    match kind {
        "exact" => messages.iter().any(|m| m == expected),
        "all_lines" => expected.lines().all(|line| messages.iter().any(|m| m == line)),
        _ => messages.iter().any(|m| m.contains(expected)),
    }
}

#[test]
fn every_verdict_is_gitlabs() {
    let Some(rows) = conformance::rows("validation-errors.tsv") else { return };
    let mut wrong = Vec::new();
    for row in &rows {
        let mut world = World::push("main");
        world.has_repository = row[0] != "v024";
        let text = text(&row[1]);
        let expected: String = serde_json::from_str(&row[4]).expect("the message is JSON");
        let result = world.compile(&text);
        let (errors, warnings): (Vec<String>, Vec<String>) = match &result {
            Ok(compiled) => (Vec::new(), compiled.warnings.iter().map(|d| d.message.clone()).collect()),
            Err(out) => {
                let of = |s: Severity| out.iter().filter(|d| d.severity == s).map(|d| d.message.clone()).collect();
                (of(Severity::Error), of(Severity::Warning))
            }
        };
        let fine = match row[2].as_str() {
            "ok" => errors.is_empty(),
            "warning" => errors.is_empty() && said(&row[3], &expected, &warnings),
            _ => !errors.is_empty() && said(&row[3], &expected, &errors),
        };
        if !fine {
            wrong.push(format!("{} {} {expected:?}\n  said {errors:?} {warnings:?}\n  {text}", row[0], row[2]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(rows.len(), 155);
}

/// One case of a schema fixture as a configuration.
fn case(folder: &str, row: &[String]) -> String {
    let path = conformance::folder().expect("it was there").join("schema").join(folder).join(&row[0]);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if row[2] == "whole config" {
        // The value of the key is the configuration: it is indented below it.
        let inside = text.split_once(&format!("{}:\n", row[1])).expect("the key is there").1;
        let indent = inside.len() - inside.trim_start_matches(' ').len();
        let lines = inside.lines().take_while(|l| l.starts_with(' ') || l.trim().is_empty());
        return lines.map(|l| format!("{}\n", l.get(indent..).unwrap_or(""))).collect();
    }
    if row[0].ends_with(".json") {
        let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("it is JSON");
        let one: serde_json::Map<_, _> = all.into_iter().filter(|(k, _)| *k == row[1]).collect();
        return serde_json::Value::from(one).to_string();
    }
    // The key and the lines below it, up to the next key. Anchors of the file stay known: all else is put under a
    // hidden name.
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        let key = line.trim_end().trim_end_matches(':').trim_matches(['"', '\'']);
        let top = !line.is_empty() && !line.starts_with([' ', '#', '-', '\t']);
        if top {
            inside = key == row[1]
                || line.starts_with(&format!("{}:", row[1]))
                || line.starts_with(&format!("'{}'", row[1]))
                || line.starts_with(&format!("\"{}\"", row[1]));
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn messages(out: &Diagnostics) -> String {
    out.messages().join("; ")
}

#[test]
fn every_positive_schema_case_is_accepted() {
    let Some(rows) = conformance::rows("schema/positive-index.tsv") else { return };
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|r| r[3] == "yes") {
        let text = case("positive", row);
        assert!(!text.trim().is_empty(), "{row:?} has no text");
        let out = check_syntax(&row[0], &text);
        if out.has_errors() {
            wrong.push(format!("{} {}: {}", row[0], row[1], messages(&out)));
        }
    }
    assert!(wrong.is_empty(), "{} cases are refused:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_negative_schema_case_is_refused() {
    let Some(rows) = conformance::rows("schema/index.tsv") else { return };
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|r| r[4] == "yes") {
        let text = case("negative", row);
        assert!(!text.trim().is_empty(), "{row:?} has no text");
        let out = check_syntax(&row[0], &text);
        if !out.has_errors() {
            wrong.push(format!("{} {}: {}\n{text}", row[0], row[1], row[3]));
        }
    }
    assert!(wrong.is_empty(), "{} cases are accepted:\n{}", wrong.len(), wrong.join("\n"));
}
