//! kill -9 at every step of every change.

use crate::engine_tree::{Bench, budget, build, committed, databases, finished, promoted, protected, snapshot, tools};
use slipway_runner::layers::{Faults, Step, Store};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// The change in which a step is reached.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Clone,
    Promote,
    Drop,
}

fn change_of(step: Step) -> Change {
    match step {
        Step::ClonePinned | Step::CloneCopied => Change::Clone,
        Step::Examined
        | Step::Staged
        | Step::LayersMoved
        | Step::Synced
        | Step::Placed
        | Step::Swapped
        | Step::Retired
        | Step::Sealed
        | Step::Trashed => Change::Promote,
        Step::GenerationsTrashed | Step::LayersTrashed => Change::Drop,
    }
}

const STEP: &str = "SLIPWAY_TEST_KILL_AT";
const ROOT: &str = "SLIPWAY_TEST_ROOT";

/// The child: does the change and is killed by its own hand at the step.
fn child(step: usize, root: &Path) {
    let step = Step::ALL[step];
    let faults = Faults::with(move |at| {
        if at == step {
            let us = nix::unistd::Pid::this();
            nix::sys::signal::kill(us, nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(())
    });
    let store = Store::open_with(root, budget(), faults, slipway_runner::layers::store::statvfs).expect("opens");
    match change_of(step) {
        Change::Clone => drop(store.clone_for(&protected(), "e-child", false)),
        Change::Promote => {
            let clone = store.clone_for(&protected(), "e-child", false).expect("a clone");
            databases(&clone.data, "child");
            snapshot(&clone.data, 4, "tool of child");
            let infos = (1..=4).map(|n| committed(&n.to_string())).collect();
            let _ = store.promote(clone, &finished(1.0, infos));
        }
        Change::Drop => drop(store.drop(&protected().key(), Some(3))),
    }
}

#[test]
fn crash_at_every_step_leaves_a_store_that_opens_verifies_and_is_warm() {
    if let (Ok(step), Ok(root)) = (std::env::var(STEP), std::env::var(ROOT)) {
        child(step.parse().expect("a number"), Path::new(&root));
        std::process::exit(99); // the step was not reached
    }
    for (n, step) in Step::ALL.into_iter().enumerate() {
        let bench = Bench::new();
        {
            let store = bench.store();
            for what in ["one", "two", "three"] {
                promoted(&store, &protected(), what, 5.0);
            }
        }
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "crash::crash_at_every_step_leaves_a_store_that_opens_verifies_and_is_warm"])
            .env(STEP, n.to_string())
            .env(ROOT, &bench.root)
            .output()
            .expect("the child runs");
        assert_eq!(
            status.status.signal(),
            Some(9),
            "{step:?} must be reached: {}",
            String::from_utf8_lossy(&status.stderr)
        );

        let store = bench.store();
        store.sweep_engines(&BTreeSet::new()).expect("swept");
        let verified = store.verify().expect("verified");
        assert!(verified.is_sound(), "{step:?}: {:?}", verified.faults);
        for folder in ["trash", "staging", "engines"] {
            let left = std::fs::read_dir(bench.root.join(folder)).expect("a folder").count();
            assert_eq!(left, 0, "{step:?}: {folder}");
        }
        let clone = store.clone_for(&protected(), "e-after", false).expect("a clone");
        let got: Vec<String> = tools(&clone).into_values().collect();
        let swapped = matches!(step, Step::Swapped | Step::Retired | Step::Sealed | Step::Trashed);
        let expected = match change_of(step) {
            Change::Promote if swapped => vec!["tool of one", "tool of two", "tool of three", "tool of child"],
            Change::Clone | Change::Promote => vec!["tool of one", "tool of two", "tool of three"],
            Change::Drop => vec!["tool of one", "tool of two"],
        };
        assert_eq!(got, expected, "{step:?}");
        let next = crate::engine_tree::generation(build(&store, clone, "after", 1.0));
        assert!(next.number >= 4, "{step:?}: {next}");
        assert!(store.verify().expect("verified").is_sound(), "{step:?}");
    }
}

#[test]
fn open_while_another_process_promotes_does_not_take_its_staging_away() {
    let bench = Bench::new();
    let root = bench.root.clone();
    promoted(&bench.store(), &protected(), "one", 5.0);
    // A second process's open and collection, in the middle of every step of the first's promotion.
    let faults = Faults::with(move |at| {
        if at != Step::Placed && at != Step::Swapped && at != Step::Retired {
            let other = Store::open(&root, budget()).map_err(std::io::Error::other)?;
            other.gc().map_err(std::io::Error::other)?;
        }
        Ok(())
    });
    let store = Store::open_with(&bench.root, budget(), faults, slipway_runner::layers::store::statvfs)
        .expect("the store opens");
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    let second = crate::engine_tree::generation(build(&store, clone, "two", 1.0));
    let store = bench.store();
    assert!(store.verify().expect("verified").is_sound());
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    assert_eq!((clone.generation.as_ref(), tools(&clone).len()), (Some(&second), 2));
}
