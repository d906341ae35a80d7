//! `POST /webhook/GROUP/NAME`: a push told by GitLab, Gitea, Forgejo or GitHub. Their bodies agree on `ref`, `before`
//! and `after`; nothing else of them is believed.

use super::config::Secret;
use super::keeper::{Keeper, Told};
use super::refs::Changed;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest body, in bytes; GitLab's own limit for what it sends is 25 MB, of which a push needs a few kB.
const BODY_MAX_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    name: String,
    before: String,
    after: String,
}

struct Door {
    keeper: Keeper,
    secrets: BTreeMap<String, Secret>,
}

/// The endpoint for the projects that have a secret, by path.
pub fn router(keeper: Keeper, secrets: BTreeMap<String, Secret>) -> Router {
    Router::new()
        .route("/webhook/{*project}", post(told))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(Arc::new(Door { keeper, secrets }))
}

async fn told(
    State(door): State<Arc<Door>>,
    Path(project): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let given = header("x-gitlab-token").or_else(|| header("authorization").and_then(|v| v.strip_prefix("Bearer ")));
    // The same answer for an unknown project and a wrong secret: a stranger learns no names.
    let known = door.secrets.get(&project).is_some_and(|secret| given.is_some_and(|g| secret.is(g)));
    if !known {
        tracing::warn!(project, "a webhook with a wrong secret, or for a project that has none, was refused");
        return (StatusCode::UNAUTHORIZED, "unknown project or wrong secret\n".to_owned());
    }
    let push: Push = match serde_json::from_slice(&body) {
        Ok(push) => push,
        Err(e) => return (StatusCode::BAD_REQUEST, format!("this is no push event: {e}\n")),
    };
    let is_id = |s: &str| (s.len() == 40 || s.len() == 64) && s.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_id(&push.before) || !is_id(&push.after) {
        return (StatusCode::BAD_REQUEST, "`before` and `after` must be commit ids\n".to_owned());
    }
    let changes = vec![Changed { name: push.name, old: push.before, new: push.after }];
    match door.keeper.pushed(Told { project, changes, who: "webhook".to_owned() }).await {
        Ok(made) => (StatusCode::OK, format!("{made:?}\n")),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
    }
}
