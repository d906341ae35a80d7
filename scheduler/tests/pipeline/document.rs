//! `docs/keywords.md` says of every keyword what the code does with it.

use slipway_scheduler::pipeline::keywords;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn keywords_document_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/keywords.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut written: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let state = cells[1].to_string();
        for name in cells[0].split(", ") {
            let before = written.insert(name.trim_matches('`').to_string(), state.clone());
            assert_eq!(before, None, "{name} is there twice");
        }
    }
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for keyword in keywords::all() {
        let name = match keyword.parent {
            "" => keyword.name.to_string(),
            parent => format!("{parent}:{}", keyword.name),
        };
        expected.insert(name, keyword.state.word().to_string());
    }
    let missing: Vec<_> = expected.iter().filter(|(k, v)| written.get(*k) != Some(*v)).collect();
    let extra: Vec<_> = written.keys().filter(|k| !expected.contains_key(*k)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing or another state: {missing:?}\nno keyword: {extra:?}");
}
