//! What each call is answered, and what is a breach.

use crate::multipart;
use crate::state::{Artifact, Job, Reply, RunnerRecord, Seen, State, Status};
use serde_json::{Value, json};
use std::time::Instant;

/// Kinds of artifacts and the format they must have.
const FORMATS: &[(&str, &[&str])] = &[
    ("zip", &["archive", "lsif"]),
    ("gzip", &["metadata", "junit", "metrics", "dotenv", "cobertura", "jacoco", "cyclonedx", "annotations"]),
    (
        "raw",
        &[
            "trace",
            "codequality",
            "sast",
            "dependency_scanning",
            "container_scanning",
            "secret_detection",
            "dast",
            "accessibility",
            "terraform",
            "sarif",
            "performance",
        ],
    ),
];

const PUT_KEYS: &[&str] = &["token", "state", "failure_reason", "exit_code", "checksum", "output", "info"];

/// The question is to be held: `None` as an answer.
pub(crate) fn answer(state: &mut State, seen: &Seen, held_enough: bool) -> Option<Reply> {
    if !seen.headers.contains_key("x-request-id") && !seen.path.ends_with("/artifacts") {
        state.breach(format!("{} {} has no X-Request-Id", seen.method, seen.path));
    }
    let parts: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
    Some(match (seen.method.as_str(), parts.as_slice()) {
        ("POST", ["jobs", "request"]) => return request(state, seen, held_enough),
        ("POST", ["runners"]) => register(state, seen),
        ("POST", ["runners", "verify"]) => verify(state, seen),
        ("POST", ["runners", "reset_authentication_token"]) => reset(state, seen),
        ("DELETE", ["runners"]) => delete(state, seen, false),
        ("DELETE", ["runners", "managers"]) => delete(state, seen, true),
        ("PUT", ["jobs", id]) => on_job(state, seen, id, put),
        ("PATCH", ["jobs", id, "trace"]) => on_job(state, seen, id, patch),
        ("POST", ["jobs", id, "artifacts"]) => on_job(state, seen, id, upload),
        ("GET", ["jobs", id, "artifacts"]) => download(state, seen, id),
        _ => {
            state.breach(format!("unexpected call {} {}", seen.method, seen.path));
            Reply::error(404, "404 Not Found")
        }
    })
}

/// The body of a runner's call: JSON by its content type, the token in the body and the header alike.
fn runner_body(state: &mut State, seen: &Seen) -> Result<(Value, String), Reply> {
    if seen.header("content-type") != "application/json" {
        state.breach(format!("{} is not application/json but {:?}", seen.path, seen.header("content-type")));
    }
    let body = seen.json();
    let Some(token) = body["token"].as_str().map(String::from) else {
        state.breach(format!("{} has no token in its body", seen.path));
        return Err(Reply::error(400, "400 Bad request - token is missing"));
    };
    if seen.path != "/runners" || seen.method == "DELETE" {
        let header = seen.header("runner-token");
        if header != token {
            state.breach(format!("{}: RUNNER-TOKEN is not the token of the body", seen.path));
        }
    }
    Ok((body, token))
}

fn note_manager(state: &mut State, token: &str, body: &Value) {
    let system_id = body["system_id"].as_str().unwrap_or("<legacy>").to_string();
    let features = body["info"]["features"].clone();
    if !features.is_object() {
        state.breach("info.features is missing");
    }
    if let Some(runner) = state.runners.get_mut(token) {
        runner.managers.insert(system_id, features);
    }
}

fn request(state: &mut State, seen: &Seen, held_enough: bool) -> Option<Reply> {
    let (body, token) = match runner_body(state, seen) {
        Ok(ok) => ok,
        Err(reply) => return Some(reply),
    };
    if !state.runners.contains_key(&token) {
        return Some(Reply::error(403, "403 Forbidden"));
    }
    note_manager(state, &token, &body);
    if body["last_update"] == json!("") {
        state.breach("last_update is empty");
    }
    let tick = state.tick.to_string();
    if body["last_update"].as_str() == Some(tick.as_str()) {
        // The front server holds it; Rails would answer without looking.
        return if held_enough { Some(Reply::status(204).with("Gitlab-Ci-Builds-Polling", "yes")) } else { None };
    }
    let next = if state.withheld { None } else { state.queue.pop_front() };
    let Some(id) = next else {
        return Some(Reply::status(204).with("X-GitLab-Last-Update", tick));
    };
    let job = state.jobs.get_mut(&id).expect("the queue holds jobs");
    job.handed_out += 1;
    job.status = Status::Running;
    let payload = job.payload.clone();
    if job.handed_out > 1 {
        state.breach(format!("job {id} was handed out twice: the double is wrong"));
    }
    Some(Reply::json(201, &payload))
}

fn registration(runner: &RunnerRecord, token: &str) -> Value {
    json!({ "id": runner.id, "token": token, "token_expires_at": runner.expires_at })
}

fn register(state: &mut State, seen: &Seen) -> Reply {
    let (body, token) = match runner_body(state, seen) {
        Ok(ok) => ok,
        Err(reply) => return reply,
    };
    if token.starts_with("glrt-") {
        state.breach("POST /runners with an authentication token");
    }
    if state.registration_token.is_empty() {
        return Reply::error(410, "410 Gone - Runner registration with registration tokens is disallowed");
    }
    if token != state.registration_token {
        return Reply::error(403, "403 Forbidden - invalid token supplied");
    }
    let tagged = body["tag_list"].as_str().is_some_and(|t| !t.is_empty());
    if !tagged && body["run_untagged"] == json!(false) {
        return Reply::json(
            400,
            &json!({ "message": { "tags_list": ["can not be empty when runner is not allowed to pick untagged jobs"] } }),
        );
    }
    let new = format!("legacy-token-{}", state.runners.len() + 1);
    let runner = RunnerRecord { id: state.runners.len() as u64 + 1, options: body, ..RunnerRecord::default() };
    let reply = Reply::json(201, &registration(&runner, &new));
    state.runners.insert(new, runner);
    reply
}

fn verify(state: &mut State, seen: &Seen) -> Reply {
    let (body, token) = match runner_body(state, seen) {
        Ok(ok) => ok,
        Err(reply) => return reply,
    };
    for key in ["locked", "access_level", "run_untagged", "maximum_timeout", "paused", "tag_list", "maintenance_note"] {
        if body.get(key).is_some() {
            state.breach(format!("verify says {key}"));
        }
    }
    if !state.runners.contains_key(&token) {
        return Reply::error(403, "403 Forbidden");
    }
    note_manager(state, &token, &body);
    if state.settings.legacy_verify {
        return Reply {
            status: 200,
            headers: vec![("content-type".into(), "text/plain".into())],
            body: b"200".to_vec(),
        };
    }
    Reply::json(200, &registration(&state.runners[&token], &token))
}

fn reset(state: &mut State, seen: &Seen) -> Reply {
    let (_, token) = match runner_body(state, seen) {
        Ok(ok) => ok,
        Err(reply) => return reply,
    };
    let Some(runner) = state.runners.remove(&token) else { return Reply::error(403, "403 Forbidden") };
    let new = format!("{token}-next");
    let runner = RunnerRecord { expires_at: None, ..runner };
    let reply = Reply::json(201, &registration(&runner, &new));
    state.runners.insert(new, runner);
    reply
}

fn delete(state: &mut State, seen: &Seen, manager: bool) -> Reply {
    let (body, token) = match runner_body(state, seen) {
        Ok(ok) => ok,
        Err(reply) => return reply,
    };
    let Some(runner) = state.runners.get_mut(&token) else { return Reply::error(403, "403 Forbidden") };
    if !manager {
        state.runners.remove(&token);
        return Reply::status(204);
    }
    let Some(system_id) = body["system_id"].as_str() else {
        return Reply::error(400, "400 Bad request - system_id is missing");
    };
    match runner.managers.remove(system_id) {
        Some(_) => Reply::status(204),
        None => Reply::error(404, "404 Not found"),
    }
}

type OnJob = fn(&mut State, &Seen, &mut Job) -> Reply;

/// A call with a job's token. What is over takes nothing; a client that was told so and calls again is in breach.
fn on_job(state: &mut State, seen: &Seen, id: &str, then: OnJob) -> Reply {
    let Some(mut job) = id.parse().ok().and_then(|id: u64| state.jobs.remove(&id)) else {
        state.breach(format!("{} {} is about no job", seen.method, seen.path));
        return Reply::error(403, "403 Forbidden");
    };
    let in_body = seen.json()["token"].as_str().map(String::from);
    let token = in_body.clone().unwrap_or_else(|| seen.header("job-token").to_string());
    let reply = if token != job.token {
        state.breach(format!("{} {} has a wrong job token", seen.method, seen.path));
        Reply::error(403, "403 Forbidden")
    } else if seen.method == "PUT" && in_body.is_none() {
        state.breach(format!("PUT {} has no token in its body", seen.path));
        Reply::error(400, "token is missing")
    } else if job.status.is_over() || job.status == Status::Pending {
        if job.told_over && !std::mem::take(&mut job.excused) {
            state.breach(format!("{} {} after the client was told that the job is over", seen.method, seen.path));
        }
        if seen.method == "POST" && !job.uncertain {
            state.breach(format!("upload to {} after the job's end", seen.path));
        }
        job.told_over = true;
        Reply::error(403, "403 Forbidden - Job is not processing on runner").with("Job-Status", job.status.word())
    } else {
        then(state, seen, &mut job)
    };
    state.jobs.insert(job.id, job);
    reply
}

fn intervals(state: &State, reply: Reply) -> Reply {
    match state.settings.update_interval {
        Some(n) => reply.with("X-GitLab-Trace-Update-Interval", n.to_string()),
        None => reply,
    }
}

fn patch(state: &mut State, seen: &Seen, job: &mut Job) -> Reply {
    if seen.header("content-type") != "text/plain" {
        state.breach(format!("PATCH is not text/plain but {:?}", seen.header("content-type")));
    }
    if !matches!(seen.query.get("debug_trace").map(String::as_str), Some("true" | "false")) {
        state.breach("PATCH does not say debug_trace");
    }
    let length = seen.body.len() as u64;
    if length == 0 || length > 1 << 20 {
        state.breach(format!("PATCH of {length} bytes"));
    }
    let range = seen.header("content-range");
    let numbers = range.split_once('-').and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let Some((start, last)) = numbers else {
        state.breach(format!("Content-Range is {range:?}"));
        return Reply::error(400, "400 Missing header Content-Range");
    };
    if last + 1 != start + length {
        state.breach(format!("Content-Range is {range:?} for {length} bytes"));
    }
    if !job.ends.is_empty() {
        state.breach(format!("job {}: trace after its end", job.id));
    }
    let size = job.trace.len() as u64;
    let here = |reply: Reply, size: u64, job: &Job| {
        reply.with("Range", format!("0-{size}")).with("Job-Status", job.status.word())
    };
    if start + length == size && start != size {
        if job.trace[start as usize..] != seen.body[..] {
            state.breach(format!("job {}: the same range again, with other bytes", job.id));
        }
        return intervals(state, here(Reply::status(202), size, job));
    }
    if start != size {
        if !job.uncertain {
            state.breach(format!("job {}: trace at {start}, the server has {size}", job.id));
        }
        job.uncertain = false;
        return here(Reply::error(416, "416 Range Not Satisfiable"), size, job);
    }
    if start == 0 {
        job.restricted = seen.query.get("debug_trace").is_some_and(|d| d == "true");
    }
    job.trace.extend_from_slice(&seen.body);
    job.patches.push((start, seen.body.len(), Instant::now()));
    intervals(state, here(Reply::status(202), job.trace.len() as u64, job))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn put(state: &mut State, seen: &Seen, job: &mut Job) -> Reply {
    if seen.header("content-type") != "application/json" {
        state.breach(format!("PUT is not application/json but {:?}", seen.header("content-type")));
    }
    let body = seen.json();
    for key in body.as_object().into_iter().flatten().map(|(k, _)| k) {
        if !PUT_KEYS.contains(&key.as_str()) {
            state.breach(format!("PUT says {key}"));
        }
    }
    match body["state"].as_str() {
        Some("running") => {
            job.keep_alives.push(Instant::now());
            Reply::status(200).with("Job-Status", job.status.word())
        }
        Some(end @ ("success" | "failed")) => ended(state, job, &body, end),
        other => {
            state.breach(format!("PUT says state {other:?}"));
            Reply::error(400, "state does not have a valid value")
        }
    }
}

fn ended(state: &mut State, job: &mut Job, body: &Value, end: &str) -> Reply {
    let id = job.id;
    let checksum = format!("crc32:{:08x}", crc32fast::hash(&job.trace));
    if body["output"]["checksum"] != json!(checksum) || body["checksum"] != json!(checksum) {
        state.breach(format!("job {id}: checksum {} for a log of {checksum}", body["output"]["checksum"]));
    }
    if body["output"]["bytesize"] != json!(job.trace.len()) {
        state.breach(format!("job {id}: size {} for {} bytes", body["output"]["bytesize"], job.trace.len()));
    }
    let code = body.get("exit_code");
    if code.is_some_and(|c| !c.is_i64() || *c == json!(0)) || (end == "success" && code.is_some()) {
        state.breach(format!("job {id}: exit code {code:?} with {end}"));
    }
    let reason = body.get("failure_reason").and_then(Value::as_str);
    let known = |reason: &str| {
        matches!(reason, "script_failure" | "runner_system_failure" | "job_execution_timeout" | "unknown_failure")
            || job.payload["features"]["failure_reasons"].as_array().is_some_and(|k| k.contains(&json!(reason)))
    };
    if (end == "failed") != reason.is_some() || reason.is_some_and(|r| !known(r)) {
        state.breach(format!("job {id}: reason {reason:?} with {end}"));
    }
    if job.ends.first().is_some_and(|(first, _)| first != body) {
        state.breach(format!("job {id}: its end was changed: {} then {body}", job.ends[0].0));
    }
    job.ends.push((body.clone(), Instant::now()));
    if job.rounds_left > 0 {
        job.rounds_left -= 1;
        return intervals(state, Reply::status(202).with("Job-Status", job.status.word()));
    }
    job.status = match (job.status, end) {
        (Status::Canceling, _) => Status::Canceled,
        (_, "success") => Status::Success,
        _ => Status::Failed,
    };
    job.told_over = true;
    Reply::status(200).with("Job-Status", job.status.word())
}

fn upload(state: &mut State, seen: &Seen, job: &mut Job) -> Reply {
    let text = |key: &str| seen.query.get(key).cloned();
    let kind = text("artifact_type").unwrap_or_else(|| "archive".into());
    let format = text("artifact_format").unwrap_or_else(|| "zip".into());
    if !FORMATS.iter().any(|(f, kinds)| *f == format && kinds.contains(&kind.as_str())) {
        state.breach(format!("artifact {kind} as {format}"));
        return Reply::error(400, "Invalid artifact format");
    }
    if seen.header("job-token") != job.token {
        state.breach("upload without JOB-TOKEN");
    }
    let file = match multipart::read(seen.header("content-type"), &seen.body) {
        Ok(file) => file,
        Err(why) => {
            state.breach(format!("upload: {why}"));
            return Reply::error(400, &why);
        }
    };
    if file.bytes.len() > state.settings.artifact_limit {
        return Reply::error(413, "413 Payload Too Large");
    }
    let artifact = Artifact { kind, format, expire_in: text("expire_in"), name: file.name, bytes: file.bytes };
    match job.artifacts.iter().find(|a| a.kind == artifact.kind) {
        Some(there) if there.bytes == artifact.bytes => {}
        Some(_) => return Reply::error(400, "another artifact of the same type already exists"),
        None => job.artifacts.push(artifact),
    }
    Reply::status(201)
}

fn download(state: &mut State, seen: &Seen, id: &str) -> Reply {
    let Some(archive) = id.parse().ok().and_then(|id: u64| state.archives.get(&id)) else {
        return Reply::error(404, "404 Not Found");
    };
    if seen.header("job-token") != archive.token {
        let text = format!("download of {id} with a wrong token");
        state.breach(text);
        return Reply::error(401, "401 Unauthorized");
    }
    if state.settings.direct_download && seen.query.get("direct_download").is_some_and(|d| d == "true") {
        let url = format!("{}/{id}?signature=abc", state.storage_url);
        return Reply::status(302).with("Location", url);
    }
    Reply {
        status: 200,
        headers: vec![("content-type".into(), "application/octet-stream".into())],
        body: archive.bytes.clone(),
    }
}
