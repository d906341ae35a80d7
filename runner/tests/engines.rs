//! Engines on this machine's real kernel and Docker. They need root, Docker and `scripts/images`.

#[path = "engines/yard.rs"]
mod yard;

use slipway_runner::engine::{Choice, Ending};
use yard::{Yard, traces_of};

#[tokio::test(flavor = "multi_thread")]
async fn cold_engine_answers_builds_and_leaves_nothing() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    let version = yard.sh(&lent, "docker version --format '{{.Server.Version}}'; docker info --format '{{.Driver}}'");
    assert!(version.contains("overlayfs"), "{version}");
    let ran = yard.sh(&lent, "docker run --rm alpine:latest echo from inside");
    assert!(ran.contains("from inside"), "{ran}");
    let id = lent.id.clone();
    let returned = lent.give_back(Ending::Keep { build_seconds: 1.0 }).await;
    eprintln!("{returned}");
    assert!(returned.promotion.is_some(), "{returned}");
    assert_eq!(traces_of(&id), Vec::<std::path::PathBuf>::new());
}
