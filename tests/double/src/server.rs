//! The listening server, and what a test may ask and do.

use crate::faults::Fault;
use crate::protocol;
use crate::state::{Archive, Job, Reply, RunnerRecord, Seen, Settings, State, Status};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A GitLab server and its object storage, listening on loopback until dropped.
#[derive(Debug)]
pub struct Double {
    shared: Shared,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Shared {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

/// The runner that every double knows.
pub const TOKEN: &str = "glrt-t1_double-runner-token";

impl Double {
    /// Listens.
    ///
    /// # Panics
    /// No port of loopback can be listened on.
    pub async fn start(settings: Settings) -> Self {
        let shared = Shared { state: Arc::default(), changed: watch::Sender::new(0) };
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (main, storage) = (listen().await.expect("a port"), listen().await.expect("a port"));
        let address = main.local_addr().expect("bound");
        {
            let mut state = shared.state();
            state.settings = settings;
            state.tick = 1;
            state.next_id = 1000;
            state.storage_url = format!("http://{}", storage.local_addr().expect("bound"));
            state.runners.insert(TOKEN.into(), RunnerRecord { id: 42, ..RunnerRecord::default() });
        }
        let door = Door { listener: main, shared: shared.clone() };
        let (api, store) = (shared.clone(), shared.clone());
        let api = Router::new().fallback(move |request: Request| handle(api.clone(), request));
        let store = Router::new().fallback(move |request: Request| serve_storage(store.clone(), request));
        let tasks = vec![
            tokio::spawn(async move { axum::serve(door, api).await.expect("serving does not end") }),
            tokio::spawn(async move { axum::serve(storage, store).await.expect("serving does not end") }),
        ];
        Double { shared, address, tasks }
    }

    /// The server's address, with its relative root.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.state().settings.root)
    }

    /// Everything, to look at or to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// A job becomes pending. Number and token are put in; returns the number.
    pub fn enqueue(&self, payload: Value) -> u64 {
        let token = format!("glcbt-64_{}", "x".repeat(20));
        self.enqueue_with_token(payload, &token)
    }

    /// The same, with a token of the test's choice; the job's number is appended to it.
    pub fn enqueue_with_token(&self, mut payload: Value, token: &str) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        let id = state.next_id;
        let token = format!("{token}{id}");
        payload["id"] = json!(id);
        payload["token"] = json!(token);
        if let Some(variables) = payload["variables"].as_array_mut() {
            variables.push(json!({ "key": "CI_JOB_ID", "value": id.to_string(), "public": true }));
            variables.push(json!({ "key": "CI_JOB_TOKEN", "value": token, "public": false, "masked": true }));
        }
        for dependency in payload["dependencies"].as_array_mut().into_iter().flatten() {
            if dependency["token"].is_null() {
                dependency["token"] = json!(token);
            }
            if let Some(bytes) = dependency.as_object_mut().and_then(|d| d.remove("double_bytes")) {
                let dependency_id = dependency["id"].as_u64().expect("a number");
                let bytes: Vec<u8> = serde_json::from_value(bytes).expect("bytes");
                let token = dependency["token"].as_str().expect("text").to_string();
                state.archives.insert(dependency_id, Archive { token, bytes });
            }
        }
        let job = Job {
            id,
            token,
            payload,
            status: Status::Pending,
            handed_out: 0,
            trace: Vec::new(),
            restricted: false,
            patches: Vec::new(),
            keep_alives: Vec::new(),
            ends: Vec::new(),
            artifacts: Vec::new(),
            rounds_left: state.settings.persist_rounds,
            uncertain: false,
            told_over: false,
            excused: false,
        };
        state.jobs.insert(id, job);
        state.queue.push_back(id);
        state.tick += 1;
        drop(state);
        self.shared.wake();
        id
    }

    /// A person cancels a job: gracefully where the runner has claimed to know how.
    pub fn cancel(&self, id: u64) {
        let mut state = self.state();
        let knows = |f: &Value| f["cancel_gracefully"] == json!(true);
        let graceful = state.runners.values().any(|r| r.managers.values().any(knows));
        let job = state.jobs.get_mut(&id).expect("a job");
        job.status = if graceful { Status::Canceling } else { Status::Canceled };
    }

    /// The server gives a job up.
    pub fn kill(&self, id: u64, status: Status) {
        self.state().jobs.get_mut(&id).expect("a job").status = status;
    }

    /// Answers given instead of the proper ones, to the next calls of `METHOD /path`; `END` is the PUT of a job's end.
    pub fn script(&self, call: &str, replies: impl IntoIterator<Item = Reply>) {
        self.state().scripted.entry(call.to_string()).or_default().extend(replies);
    }

    /// The server cannot be reached, or can again. Calls under way are cut.
    pub fn set_down(&self, down: bool) {
        let mut state = self.state();
        state.down = down;
        for job in state.jobs.values_mut() {
            job.uncertain = true;
        }
    }

    /// From now on the client may be unsure of what arrived: it was restarted.
    pub fn forgive(&self) {
        for job in self.state().jobs.values_mut() {
            (job.uncertain, job.excused) = (true, true);
        }
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// It is not so within the patience of the settings.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let patience = self.state().settings.patience;
        let waited = tokio::time::timeout(patience, async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = found(&mut self.state()) {
                    return found;
                }
                changed.changed().await.expect("the double holds the sender");
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain: {what}\n{}", self.report()),
        }
    }

    /// Waits until a job is over and returns it.
    pub async fn over(&self, id: u64) -> Job {
        self.until(&format!("job {id} is over"), |s| s.jobs.get(&id).filter(|j| j.status.is_over()).cloned()).await
    }

    /// Calls of `METHOD /path` so far.
    #[must_use]
    pub fn calls(&self, method: &str, path: &str) -> Vec<Seen> {
        self.state().seen.iter().filter(|s| s.is(method, path)).cloned().collect()
    }

    /// Waits until there were so many calls of `METHOD /path`.
    pub async fn called(&self, times: usize, method: &str, path: &str) -> Vec<Seen> {
        self.until(&format!("{times} calls of {method} {path}"), |s| {
            let calls: Vec<Seen> = s.seen.iter().filter(|s| s.is(method, path)).cloned().collect();
            (calls.len() >= times).then_some(calls)
        })
        .await
    }

    /// Fails when there was a breach of the protocol.
    ///
    /// # Panics
    /// There was one.
    pub fn assert_clean(&self) {
        let breaches = self.state().breaches.clone();
        assert!(breaches.is_empty(), "breaches of the protocol:\n{}\n{}", breaches.join("\n"), self.report());
    }

    /// What happened, for a failed test.
    #[must_use]
    pub fn report(&self) -> String {
        let state = self.state();
        let mut text = String::new();
        for seen in state.seen.iter().rev().take(40).rev() {
            let range = seen.header("content-range");
            let body =
                if seen.method == "PUT" { String::from_utf8_lossy(&seen.body).into_owned() } else { String::new() };
            let _ = writeln!(text, "  {} {} {range} {body} -> {}", seen.method, seen.path, seen.status);
        }
        for job in state.jobs.values().filter(|j| !j.status.is_over()) {
            let _ = writeln!(
                text,
                "  job {}: {:?}, {} bytes, {} ends",
                job.id,
                job.status,
                job.trace.len(),
                job.ends.len()
            );
        }
        text
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A listener that hangs up while the server is down.
struct Door {
    listener: TcpListener,
    shared: Shared,
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(_) if self.shared.state().down => {
                    self.shared.state().turned_away += 1;
                    self.shared.wake();
                }
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return (stream, address);
                }
                Err(error) => eprintln!("double: accept: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn handle(shared: Shared, request: Request) -> Response<Body> {
    let seen = see(&shared, request).await;
    let index = {
        let mut state = shared.state();
        state.seen.push(seen.clone());
        state.seen.len() - 1
    };
    let asks = seen.is("POST", "/jobs/request");
    let token = asks.then(|| seen.json()["token"].as_str().unwrap_or("").to_string());
    if let Some(token) = &token {
        let mut state = shared.state();
        let (now, most) = state.asking.entry(token.clone()).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }
    shared.wake();
    let response = respond(&shared, &seen, asks).await;
    if let Some(token) = &token {
        shared.state().asking.entry(token.clone()).or_default().0 -= 1;
    }
    shared.state().seen[index].status = response.as_ref().map_or(0, |r| r.status);
    shared.wake();
    match response {
        Some(reply) => http(reply),
        None => cut(),
    }
}

async fn respond(shared: &Shared, seen: &Seen, asks: bool) -> Option<Reply> {
    if shared.state().down {
        return None;
    }
    let scripted = {
        let mut state = shared.state();
        let ends = seen.method == "PUT" && seen.json()["state"] != json!("running");
        let key = format!("{} {}", if ends { "END" } else { &seen.method }, seen.path);
        state.scripted.get_mut(&key).and_then(std::collections::VecDeque::pop_front)
    };
    if let Some(reply) = scripted {
        return Some(reply);
    }
    let (fault, slow) = {
        let mut state = shared.state();
        let slow = state.settings.slow;
        (state.settings.faults.as_mut().and_then(|f| f.draw(asks)), slow)
    };
    if fault.is_some() {
        let id = seen.path.split('/').nth(2).and_then(|id| id.parse::<u64>().ok());
        if let Some(job) = id.and_then(|id| shared.state().jobs.get_mut(&id).map(|j| j.id)) {
            shared.state().jobs.get_mut(&job).expect("just seen").uncertain = true;
        }
    }
    match fault {
        Some(Fault::Status(429)) => Some(Reply::error(429, "Too Many Requests").with("Retry-After", "1")),
        Some(Fault::Status(status)) => Some(Reply::error(status, "injected")),
        Some(Fault::CutBefore) => None,
        Some(Fault::CutAfter) => {
            proper(shared, seen).await;
            // The client cannot know what became of it.
            untell(shared, seen);
            None
        }
        Some(Fault::Twice) => {
            proper(shared, seen).await;
            untell(shared, seen);
            Some(proper(shared, seen).await)
        }
        Some(Fault::Slow) => {
            tokio::time::sleep(slow).await;
            Some(proper(shared, seen).await)
        }
        None => Some(proper(shared, seen).await),
    }
}

fn untell(shared: &Shared, seen: &Seen) {
    let id = seen.path.split('/').nth(2).and_then(|id| id.parse::<u64>().ok());
    if let Some(job) = id.and_then(|id| shared.state().jobs.get_mut(&id).map(|j| j.id)) {
        let mut state = shared.state();
        let job = state.jobs.get_mut(&job).expect("just seen");
        (job.told_over, job.uncertain) = (false, true);
    }
}

/// The proper answer; a question is held as long as the front server would.
async fn proper(shared: &Shared, seen: &Seen) -> Reply {
    let hold = shared.state().settings.hold;
    let mut changed = shared.changed.subscribe();
    if let Some(reply) = protocol::answer(&mut shared.state(), seen, hold.is_zero()) {
        return reply;
    }
    let tick = shared.state().tick;
    let _ =
        tokio::time::timeout(hold, async { while shared.state().tick == tick && changed.changed().await.is_ok() {} })
            .await;
    // Also after a change: it is the next question that reaches the application.
    Reply::status(204).with("Gitlab-Ci-Builds-Polling", "yes")
}

async fn see(shared: &Shared, request: Request) -> Seen {
    let (parts, body) = request.into_parts();
    let prefix = format!("{}/api/v4", shared.state().settings.root);
    let path = match parts.uri.path().strip_prefix(&prefix) {
        Some(path) => path.to_string(),
        None => format!("!{}", parts.uri.path()),
    };
    let decode = |t: &str| percent_encoding::percent_decode_str(&t.replace('+', " ")).decode_utf8_lossy().into_owned();
    let query = parts.uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    let headers: BTreeMap<String, String> = parts
        .headers
        .iter()
        .map(|(k, v)| (k.as_str().to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    Seen {
        at: Instant::now(),
        method: parts.method.to_string(),
        path,
        query: query.map(|(k, v)| (decode(k), decode(v))).collect(),
        headers,
        body: to_bytes(body, 1 << 30).await.unwrap_or_default(),
        status: 0,
    }
}

fn http(reply: Reply) -> Response<Body> {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).expect("a status");
    for (name, value) in reply.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        response.headers_mut().insert(name, HeaderValue::from_str(&value).expect("a value"));
    }
    response
}

/// An answer that breaks off: its body ends before its length, and the connection is closed.
fn cut() -> Response<Body> {
    let broken = stream::once(async { Err::<bytes::Bytes, _>(io::Error::other("cut")) });
    let mut response = Response::new(Body::from_stream(broken));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert("content-length", HeaderValue::from_static("1000"));
    response
}

async fn serve_storage(shared: Shared, request: Request) -> Response<Body> {
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .map(|(k, v)| (k.as_str().to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let id = request.uri().path().trim_start_matches('/').parse::<u64>().ok();
    let reply = {
        let mut state = shared.state();
        if headers.contains_key("job-token") {
            state.breach("the storage was shown the job token");
        }
        state.storage_seen.push(headers);
        match id.and_then(|id| state.archives.get(&id)) {
            Some(_) if state.settings.storage_broken => Reply::error(500, "storage"),
            Some(archive) => Reply { status: 200, headers: Vec::new(), body: archive.bytes.clone() },
            None => Reply::error(404, "no such object"),
        }
    };
    shared.wake();
    http(reply)
}
