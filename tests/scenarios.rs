//! Whole pipelines by `slipway run`, as data: `tests/scenarios/NAME/` is a repository; its `expect.toml` says with what
//! arguments it is run, how it must end and what must be said.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use serde::Deserialize;
use site::Site;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// What this proves, for who reads a failure.
    proves: String,
    #[serde(default)]
    args: Vec<String>,
    exit: i32,
    /// Each is somewhere in the output, errors included.
    #[serde(default)]
    contains: Vec<String>,
    /// None is anywhere.
    #[serde(default)]
    absent: Vec<String>,
    /// Job -> state in the table at the end; `gone` means not in the table.
    #[serde(default)]
    jobs: BTreeMap<String, String>,
    /// `[runner]` keys.
    #[serde(default)]
    runner: String,
    /// Tables of the configuration; `{registry}` and `{repository}` are put in.
    #[serde(default)]
    tables: String,
}

fn scenario(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(name);
    let text = std::fs::read_to_string(folder.join("expect.toml")).unwrap();
    let expect: Expect = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}/expect.toml: {e}"));
    let mut site = Site::new();
    site.runner = expect.runner.clone();
    let repository = site.repository_of("repository", &folder);
    site.tables = expect
        .tables
        .replace("{registry}", &Site::registry())
        .replace("{repository}", repository.path.to_str().unwrap());
    let args: Vec<&str> = expect.args.iter().map(String::as_str).collect();
    let end = site.run(&repository, &args);
    let said = format!("{}{}", end.out(), end.err());
    let proves = &expect.proves;
    assert_eq!(end.code(), expect.exit, "{name} ({proves}): {}", end.all());
    for what in &expect.contains {
        assert!(said.contains(what.as_str()), "{name} ({proves}): {what:?} is not said; {}", end.all());
    }
    for what in &expect.absent {
        assert!(!said.contains(what.as_str()), "{name} ({proves}): {what:?} is said; {}", end.all());
    }
    for (job, state) in &expect.jobs {
        assert_eq!(&state_in_table(&end.out(), job), state, "{name} ({proves}): state of {job}; {}", end.all());
    }
}

/// The fourth column of the job's row in the table at the end.
fn state_in_table(out: &str, job: &str) -> String {
    let table = out.rsplit_once("\nid ").map_or("", |(_, table)| table);
    let rows = table.lines().map(|l| l.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>());
    let found: Vec<&str> = rows.filter(|r| r.get(1) == Some(&job)).filter_map(|r| r.get(3).copied()).collect();
    match found.as_slice() {
        [] => "gone".to_owned(),
        states => states.join(", "),
    }
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            scenario(stringify!($name));
        })*

        #[test]
        fn every_folder_is_a_scenario() {
            let mut folders: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios"))
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            folders.sort();
            let mut named = vec![$(stringify!($name).to_owned()),*];
            named.sort();
            assert_eq!(folders, named);
        }
    };
}

scenarios! {
    after_script_runs_after_a_failure
    artifacts_reach_a_later_job
    branch_other_than_master_has_no_deployment
    broken_yaml_shows_place_and_hint
    dotenv_becomes_variables
    engine_builds_and_runs
    failing_line_fails_the_job
    masked_variable_is_hidden
    matrix_and_needs
    retry_runs_again
    services_answer_by_name
    timeout_ends_the_job
    trivial
    unknown_image_is_a_pull_failure
}
