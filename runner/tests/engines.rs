//! Engines on this machine's real kernel and Docker. They need root, Docker and `scripts/images`.

#[path = "engines/attack.rs"]
mod attack;
#[path = "engines/warm.rs"]
mod warm;
#[path = "engines/yard.rs"]
mod yard;

use slipway_runner::engine::{Choice, Ending, EngineConfig, Lender, Lent, Limits};
use slipway_runner::layers::Promotion;
use slipway_spec::ids::{Fence, JobId};
use std::path::PathBuf;
use std::time::Instant;
use yard::{Yard, traces_of};

const NOTHING: Vec<PathBuf> = Vec::new();
const KEEP: Ending = Ending::Keep { build_seconds: 1.0 };

/// A build of `lines` in a folder of its own.
fn build(tag: &str, lines: &str) -> String {
    format!("mkdir -p /w && cd /w && printf '{lines}' > Dockerfile && docker build --progress=plain -t {tag} . 2>&1")
}

async fn keep(lent: Lent) -> Promotion {
    let returned = lent.give_back(KEEP).await;
    eprintln!("{returned}");
    let text = returned.to_string();
    returned.promotion.unwrap_or_else(|| panic!("the store was not asked: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_engine_builds_and_the_next_one_is_warm_and_nothing_is_left() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    let driver = yard.sh(&lent, "docker info --format '{{.Driver}}'");
    assert!(driver.contains("overlayfs"), "containerd's store whatever DOCKER_DRIVER says: {driver}");
    let recipe = build("x", "FROM alpine:latest\\nRUN echo built > /a\\n");
    let built = yard.sh(&lent, &recipe);
    assert!(!built.contains("CACHED"), "{built}");
    let first = lent.id.clone();
    assert!(matches!(keep(lent).await, Promotion::Promoted { .. }));

    let lent = yard.lend(2).await;
    assert!(lent.generation.as_ref().is_some_and(|g| g.ends_with("@1")), "{:?}", lent.generation);
    let built = yard.sh(&lent, &recipe);
    assert!(built.contains("CACHED"), "{built}");
    let ran = yard.sh(&lent, "docker run --rm x cat /a");
    assert!(ran.contains("built"), "{ran}");
    let second = lent.id.clone();
    keep(lent).await;
    for id in [first, second] {
        assert_eq!(traces_of(&id), NOTHING);
    }
    assert!(yard.store.verify().unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_engines_cannot_see_each_other() {
    let yard = Yard::new(Choice::Userns).await;
    let (a, b) = tokio::join!(yard.lend(1), yard.lend(2));
    yard.sh(
        &a,
        &format!(
            "{} && docker volume create mine && docker network create mine && docker run -d --name mine x sleep 600",
            build("x", "FROM alpine:latest\\nRUN echo secret > /a\\n")
        ),
    );
    let seen =
        yard.sh(&b, "docker ps -aq; docker images -q; docker volume ls -q; docker network ls --format '{{.Name}}'");
    let seen: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(seen, ["bridge", "host", "none"]);
    let built = yard.sh(&b, &build("x", "FROM alpine:latest\\nRUN echo secret > /a\\n"));
    assert!(!built.contains("CACHED"), "{built}");
    tokio::join!(keep(a), keep(b));
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_like_use_works_in_two_engines_at_once() {
    let yard = Yard::new(Choice::Userns).await;
    let (a, b) = tokio::join!(yard.lend(1), yard.lend(2));
    for (lent, text) in [(&a, "one"), (&b, "two")] {
        // Two containers on a network of their own, one finds the other by name, a volume between them, and a published
        // port that the job reaches under the service's name.
        let said = yard.sh(
            lent,
            &format!(
                "docker network create net; docker volume create vol
                 docker run --rm -v vol:/v alpine sh -c 'echo {text} > /v/index.html'
                 docker run -d --name web --network net -p 8080:80 -v vol:/v alpine httpd -f -p 80 -h /v
                 docker run --rm --network net alpine sh -c 'until wget -qO- http://web/; do sleep 0.1; done'
                 until curl -fsS http://docker:8080/; do sleep 0.1; done"
            ),
        );
        assert_eq!(said.lines().filter(|line| *line == text).count(), 2, "{said}");
    }
    tokio::join!(keep(a), keep(b));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ports_answer_and_the_one_with_tls_only_those_with_the_jobs_key() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    let version = "docker version --format '{{.Server.Version}} by '$DOCKER_HOST";
    let plain = yard.sh(&lent, version);
    let tls = yard.tls_sh(&lent, version);
    // The image's entrypoint picks the port by the certificates it finds; both are the same engine.
    assert!(plain.contains("by tcp://docker:2375") && tls.contains("by tcp://docker:2376"), "{plain}{tls}");
    let stranger = yard.try_sh(&lent, "curl -sk https://docker:2376/_ping && echo answered");
    assert!(!stranger.text.contains("answered"), "{}", stranger.text);
    let keys = "--cacert /certs/client/ca.pem --cert /certs/client/cert.pem --key /certs/client/key.pem";
    let mut other = yard.request(2);
    other.names.push("alias.of.it".into());
    let second = yard.lender.lend(other).await.unwrap();
    let own = format!("curl -fsS {keys} --resolve alias.of.it:2376:{} https://alias.of.it:2376/_ping", second.address);
    assert!(yard.tls_sh(&second, &own).contains("OK"), "its certificate names every alias");
    // The first engine's key opens nothing at the second.
    let foreign = format!("curl -sk {keys} https://{}:2376/_ping && echo opened || true", second.address);
    assert!(!yard.tls_sh(&lent, &foreign).contains("opened"));
    tokio::join!(keep(lent), keep(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn service_command_and_environment_reach_the_daemon() {
    let yard = Yard::new(Choice::Userns).await;
    let mut request = yard.request(1);
    request.command = Some(vec!["dockerd-entrypoint.sh".into(), "--mtu=1312".into(), "--label=from=command".into()]);
    request.environment.push(("HTTP_PROXY".into(), "http://proxy.example:3128".into()));
    request.environment.push(("DOCKER_TLS_CERTDIR".into(), String::new()));
    let lent = yard.lender.lend(request).await.unwrap();
    let said = yard.sh(&lent, "docker info --format '{{.Labels}} {{.HTTPProxy}}'; docker network inspect bridge");
    for expected in ["[from=command]", "http://proxy.example:3128", "1312"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    keep(lent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_killed_mid_job_is_not_promoted_and_the_next_job_is_warm() {
    let yard = Yard::new(Choice::Userns).await;
    let first = yard.lend(1).await;
    yard.sh(&first, &build("x", "FROM alpine:latest\\nRUN echo 1 > /a\\n"));
    keep(first).await;

    let victim = yard.lend(2).await;
    yard.sh(&victim, &build("y", "FROM alpine:latest\\nRUN echo 2 > /a\\n"));
    let (id, pid) = (victim.id.clone(), victim.init_pid().unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let promotion = keep(victim).await;
    assert!(matches!(promotion, Promotion::Kept(_)), "{promotion}");
    assert_eq!(traces_of(&id), NOTHING);

    let next = yard.lend(3).await;
    assert!(next.generation.as_ref().is_some_and(|g| g.ends_with("@1")), "{:?}", next.generation);
    let built = yard.sh(&next, &build("x", "FROM alpine:latest\\nRUN echo 1 > /a\\n"));
    assert!(built.contains("CACHED"), "{built}");
    keep(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_outlives_its_runner_and_is_adopted_or_swept() {
    let yard = Yard::new(Choice::Userns).await;
    let (kept, lost) = tokio::join!(yard.lend(1), yard.lend(2));
    yard.sh(&kept, &build("x", "FROM alpine:latest\\nRUN echo 1 > /a\\n"));
    let (kept_id, lost_id) = (kept.id.clone(), lost.id.clone());
    // A runner that dies says goodbye to nobody.
    std::mem::forget((kept, lost));
    let restarted = yard.restarted(Choice::Userns).await;
    let adopted = restarted.adopt(JobId(1), Fence(1), 0).await.unwrap().expect("it still answers");
    assert!(restarted.adopt(JobId(1), Fence(2), 0).await.unwrap().is_none(), "another lease is another engine");
    assert_eq!(restarted.sweep(std::slice::from_ref(&kept_id)).await.unwrap(), std::slice::from_ref(&lost_id));
    assert_eq!(traces_of(&lost_id), NOTHING);
    let images = yard.sh(&adopted, "docker images --format '{{.Repository}}'");
    assert!(images.contains('x'), "{images}");
    assert!(matches!(keep(adopted).await, Promotion::Promoted { .. }));
    assert_eq!(traces_of(&kept_id), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn container_wall_lends_warm_engines_too() {
    let yard = Yard::new(Choice::Container).await;
    let recipe = build("x", "FROM alpine:latest\\nRUN echo 1 > /a\\n");
    let first = yard.lend(1).await;
    assert!(first.line().contains("as strong as --privileged"), "{}", first.line());
    yard.sh(&first, &recipe);
    yard.tls_sh(&first, "docker version");
    let id = first.id.clone();
    assert!(matches!(keep(first).await, Promotion::Promoted { .. }));
    assert_eq!(traces_of(&id), NOTHING);
    let second = yard.lend(2).await;
    assert!(second.generation.is_some());
    assert!(yard.sh(&second, &recipe).contains("CACHED"));
    assert!(yard.sh(&second, "docker run --rm x cat /a").contains('1'));
    let id = second.id.clone();
    keep(second).await;
    assert_eq!(traces_of(&id), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn host_without_folders_of_layers_has_its_images_unpacked_once() {
    let yard = Yard::new(Choice::Userns).await;
    let config = EngineConfig { unpack_images: true, ..yard::config(yard.folder(), Choice::Userns, Limits::default()) };
    let docker = bollard::Docker::connect_with_local_defaults().unwrap();
    let lender = Lender::new(config, yard.store.clone(), docker).await.unwrap();
    let first = lender.lend(yard.request(1)).await.unwrap();
    yard.sh(&first, &build("x", "FROM alpine:latest\\nRUN echo 1 > /a\\n"));
    assert!(matches!(keep(first).await, Promotion::Promoted { .. }));
    let images = || std::fs::read_dir(yard.folder().join("lent/.images")).unwrap().count();
    assert_eq!(images(), 1);
    let second = lender.lend(yard.request(2)).await.unwrap();
    assert!(second.generation.is_some());
    assert_eq!(images(), 1);
    keep(second).await;
    assert_eq!(lender.sweep(&[]).await.unwrap(), Vec::<String>::new());
    assert_eq!(images(), 1, "the host still has the image");
}

#[tokio::test(flavor = "multi_thread")]
async fn discarded_engine_is_gone_at_once() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    let (id, started) = (lent.id.clone(), Instant::now());
    let returned = lent.give_back(Ending::Discard).await;
    eprintln!("{returned} in {:?}", started.elapsed());
    assert_eq!(returned.promotion, None);
    assert_eq!(traces_of(&id), NOTHING);
    assert!(yard.store.engines().unwrap().is_empty());
}
