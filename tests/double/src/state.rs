//! Runners, jobs, what was seen.

use crate::faults::Faults;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How the double behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `X-GitLab-Trace-Update-Interval`; `None` sends none.
    pub update_interval: Option<u32>,
    /// The final PUT is answered 202 so many times before 200.
    pub persist_rounds: u32,
    /// How long a question with a known `last_update` is held.
    pub hold: Duration,
    /// A path before `/api/v4`, such as `/gitlab`.
    pub root: String,
    /// `verify` answers the plain text of servers up to 15.9.
    pub legacy_verify: bool,
    /// Downloads are sent on to the storage when the client asks for it.
    pub direct_download: bool,
    /// The storage answers 500.
    pub storage_broken: bool,
    /// `max_artifacts_size`.
    pub artifact_limit: usize,
    /// Statuses of [`crate::faults::Fault::Slow`] come so much later.
    pub slow: Duration,
    /// How long a test waits for anything before it fails.
    pub patience: Duration,
    /// Failures.
    pub faults: Option<Faults>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            update_interval: Some(3),
            persist_rounds: 0,
            hold: Duration::from_millis(200),
            root: String::new(),
            legacy_verify: false,
            direct_download: false,
            storage_broken: false,
            artifact_limit: 100 << 20,
            slow: Duration::from_millis(20),
            patience: Duration::from_secs(60),
            faults: None,
        }
    }
}

/// GitLab's states of a job that a runner can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Pending,
    Running,
    Canceling,
    Success,
    Failed,
    Canceled,
}

impl Status {
    /// GitLab's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Canceling => "canceling",
            Status::Success => "success",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
        }
    }

    /// Nothing more is taken.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Status::Success | Status::Failed | Status::Canceled)
    }
}

/// A file that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Artifact {
    pub kind: String,
    pub format: String,
    pub expire_in: Option<String>,
    pub name: String,
    pub bytes: Vec<u8>,
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// GitLab's number.
    pub id: u64,
    /// Its token.
    pub token: String,
    /// What is handed out.
    pub payload: Value,
    /// Its state.
    pub status: Status,
    /// How often it was handed out.
    pub handed_out: u32,
    /// The log.
    pub trace: Vec<u8>,
    /// The first patch said `debug_trace=true`.
    pub restricted: bool,
    /// Accepted PATCHes: offset, length, when.
    pub patches: Vec<(u64, usize, Instant)>,
    /// PUTs with `state=running`.
    pub keep_alives: Vec<Instant>,
    /// PUTs of an end: body and when, those answered 202 and 200 alike.
    pub ends: Vec<(Value, Instant)>,
    /// Files.
    pub artifacts: Vec<Artifact>,
    /// 202s still to be given.
    pub(crate) rounds_left: u32,
    /// Some answer about it may not have arrived.
    pub(crate) uncertain: bool,
    /// The client was told that it is over.
    pub(crate) told_over: bool,
    /// The client was killed: it may not know what it was told, once.
    pub(crate) excused: bool,
}

impl Job {
    /// A field of the end that was accepted.
    #[must_use]
    pub fn end(&self, key: &str) -> Option<&Value> {
        self.ends.last().and_then(|(body, _)| body.get(key))
    }

    /// The log as text.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.trace).into_owned()
    }
}

/// One call, as it came.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Seen {
    pub at: Instant,
    pub method: String,
    /// Below `/api/v4`.
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: bytes::Bytes,
    /// Filled when answered; 0 for a cut connection.
    pub status: u16,
}

impl Seen {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header; empty when missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The rest of `METHOD /path`, for matching.
    #[must_use]
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// A status with GitLab's plain JSON body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let body = if status == 204 { Vec::new() } else { format!("\"{status}\"").into_bytes() };
        Reply { status, headers: vec![("content-type".into(), "application/json".into())], body }
    }

    /// An error with a message.
    #[must_use]
    pub fn error(status: u16, message: &str) -> Self {
        Reply { body: serde_json::json!({ "message": message }).to_string().into_bytes(), ..Reply::status(status) }
    }

    /// JSON.
    #[must_use]
    pub fn json(status: u16, value: &Value) -> Self {
        Reply { body: value.to_string().into_bytes(), ..Reply::status(status) }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A runner that the server knows.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RunnerRecord {
    pub id: u64,
    pub expires_at: Option<String>,
    /// `info.features` last seen, by `system_id`.
    pub managers: BTreeMap<String, Value>,
    /// Options of a legacy registration.
    pub options: Value,
}

/// An archive of a job that others depend on.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Archive {
    pub token: String,
    pub bytes: Vec<u8>,
}

/// Everything.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct State {
    pub settings: Settings,
    pub runners: HashMap<String, RunnerRecord>,
    pub registration_token: String,
    pub queue: VecDeque<u64>,
    pub jobs: BTreeMap<u64, Job>,
    pub archives: HashMap<u64, Archive>,
    pub seen: Vec<Seen>,
    pub breaches: Vec<String>,
    /// Answers given instead of the proper ones, by `METHOD /path`, first come first served.
    pub scripted: HashMap<String, VecDeque<Reply>>,
    pub down: bool,
    /// No job is handed out.
    pub withheld: bool,
    /// Connections that were refused while down.
    pub turned_away: u32,
    /// Questions for jobs under way, and the most there were at once, by runner token.
    pub asking: HashMap<String, (u32, u32)>,
    /// Headers of what the storage was asked.
    pub storage_seen: Vec<BTreeMap<String, String>>,
    pub storage_url: String,
    /// Changes with the queue: what `last_update` holds.
    pub tick: u64,
    pub(crate) next_id: u64,
}

impl State {
    /// Records a breach of the protocol.
    pub fn breach(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("double: breach: {text}");
        self.breaches.push(text);
    }
}
