//! How far the telling of a job has come: what to do next, and what an answer means. Pure; `now` comes in.
//!
//! ```text
//!            ended             200, 403, 404 of the final PUT
//!  Running ─────────► Ending ─────────────────────────────────► Over
//!     │                                                          ▲
//!     └──── 403, 404 of PUT, Job-Status canceled or failed ──────┘
//! ```

use super::super::client::backoff_seconds;
use super::super::config::Pace;
use crate::upstream::Cancel;
use std::time::{Duration, Instant};

/// Seconds between two PATCHes until the server says otherwise. Official: 3.
const INTERVAL: f64 = 3.0;
/// The longest interval that a server may ask for: 15 min.
const INTERVAL_MOST: f64 = 900.0;
/// Seconds of silence after which a PUT says that the job lives. Official: 30.
const KEEP_ALIVE: f64 = 30.0;
/// Failed tries of the end before it is given up: with 60 s between them about a day. (The official client gives up
/// after 10, some 17 minutes; the server itself drops a silent job after an hour.)
const END_TRIES: u32 = 1440;

/// How far the telling of a job has come.
#[derive(Clone, Debug)]
pub struct Progress {
    pace: Pace,
    state: State,
    /// Bytes of text that the server has.
    offset: u64,
    interval: Duration,
    next_patch: Instant,
    keep_alive_at: Instant,
}

/// Where the job stands with its server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// It runs.
    Running {
        /// The server has asked for its end.
        canceling: bool,
    },
    /// It has ended; the server does not know all of it yet.
    Ending {
        /// Tries that failed.
        failures: u32,
        /// Nothing is sent before.
        not_before: Instant,
        /// The server knows no such job for its trace (404): only the end is told.
        trace_refused: bool,
    },
    /// Nothing more is to be told.
    Over(Over),
}

/// Why nothing more is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The server has the end.
    Acknowledged,
    /// The server has given the job up.
    GivenUp,
    /// We have: it was not reached for a day.
    Exhausted,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send text from [`Progress::offset`] on.
    Patch,
    /// Say that the job lives.
    KeepAlive,
    /// Tell the end.
    TellEnd,
    /// Nothing until then, unless text or the end comes.
    Wait(Instant),
    /// Nothing any more.
    Stop(Over),
}

/// What matters of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// HTTP status; 0 when there was no answer.
    pub status: u16,
    /// `Job-Status`.
    pub job_status: Option<String>,
    /// `Range: 0-N`: N.
    pub range_end: Option<u64>,
    /// `X-GitLab-Trace-Update-Interval`, seconds.
    pub interval: Option<f64>,
}

impl Reply {
    /// There was no answer.
    #[must_use]
    pub fn none() -> Self {
        Reply::default()
    }
}

impl Progress {
    /// A job just taken, or found on disk, of whose text the server is thought to have `offset` bytes.
    #[must_use]
    pub fn new(pace: Pace, now: Instant, offset: u64) -> Self {
        Progress {
            pace,
            state: State::Running { canceling: false },
            offset,
            interval: pace.seconds(INTERVAL),
            next_patch: now,
            // At once: the server learns that the job runs, and we whether it still wants it.
            keep_alive_at: now,
        }
    }

    /// Where the job stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Bytes of text that the server has.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The job has ended.
    pub fn ended(&mut self, now: Instant) {
        if let State::Running { .. } = self.state {
            self.interval = self.pace.seconds(INTERVAL);
            self.state = State::Ending { failures: 0, not_before: now, trace_refused: false };
        }
    }

    /// What to do now, when text that the server has not is waiting or not.
    #[must_use]
    pub fn next(&self, now: Instant, text_waits: bool) -> Step {
        match self.state {
            State::Running { .. } if now >= self.keep_alive_at => Step::KeepAlive,
            State::Running { .. } if text_waits && now >= self.next_patch => Step::Patch,
            State::Running { .. } if text_waits => Step::Wait(self.next_patch.min(self.keep_alive_at)),
            State::Running { .. } => Step::Wait(self.keep_alive_at),
            State::Ending { not_before, .. } if now < not_before => Step::Wait(not_before),
            State::Ending { trace_refused: false, .. } if text_waits => Step::Patch,
            State::Ending { .. } => Step::TellEnd,
            State::Over(over) => Step::Stop(over),
        }
    }

    /// A PATCH of `length` bytes from `start` was answered. Returns what the job's run is to be told.
    pub fn patched(&mut self, now: Instant, start: u64, length: u64, reply: &Reply) -> Option<Cancel> {
        self.note_interval(reply);
        self.next_patch = now + self.interval;
        if reply.status != 0 {
            self.keep_alive_at = now + self.pace.seconds(KEEP_ALIVE);
        }
        match reply.status {
            202 | 200 | 201 | 204 => {
                self.offset = start + length;
                self.forget_failures();
            }
            416 => {
                self.offset = reply.range_end.unwrap_or(0);
                self.hold(now + self.interval);
            }
            404 => {
                if let State::Ending { trace_refused, .. } = &mut self.state {
                    *trace_refused = true;
                }
            }
            403 => return self.given_up(),
            _ => self.failed(now),
        }
        self.obey(reply)
    }

    /// `PUT state=running` was answered.
    pub fn kept_alive(&mut self, now: Instant, reply: &Reply) -> Option<Cancel> {
        self.note_interval(reply);
        match reply.status {
            200..=299 => self.keep_alive_at = now + self.pace.seconds(KEEP_ALIVE),
            403 | 404 => return self.given_up(),
            _ => self.keep_alive_at = now + self.interval,
        }
        self.obey(reply)
    }

    /// The PUT of the end was answered.
    pub fn told_end(&mut self, now: Instant, reply: &Reply) {
        match reply.status {
            200 => self.state = State::Over(Over::Acknowledged),
            403 | 404 => self.state = State::Over(Over::GivenUp),
            202 => {
                self.forget_failures();
                let wait = self.pace.seconds(reply.interval.unwrap_or(INTERVAL).min(INTERVAL_MOST));
                self.hold(now + wait);
            }
            412 => {
                self.offset = 0;
                self.failed(now);
            }
            _ => self.failed(now),
        }
    }

    fn note_interval(&mut self, reply: &Reply) {
        if let (State::Running { .. }, Some(seconds)) = (self.state, reply.interval)
            && seconds > 0.0
        {
            self.interval = self.pace.seconds(seconds.min(INTERVAL_MOST));
        }
    }

    /// What `Job-Status` asks for. Once the end is known only a final word counts.
    fn obey(&mut self, reply: &Reply) -> Option<Cancel> {
        match (reply.job_status.as_deref(), self.state) {
            (Some("canceled" | "failed"), State::Running { .. } | State::Ending { .. }) => self.given_up(),
            (Some("canceling"), State::Running { canceling: false }) => {
                self.state = State::Running { canceling: true };
                Some(Cancel::Graceful)
            }
            _ => None,
        }
    }

    fn given_up(&mut self) -> Option<Cancel> {
        let was_running = matches!(self.state, State::Running { .. });
        self.state = State::Over(Over::GivenUp);
        was_running.then_some(Cancel::Abort)
    }

    fn failed(&mut self, now: Instant) {
        if let State::Ending { failures, not_before, .. } = &mut self.state {
            *failures += 1;
            *not_before = now + self.pace.seconds(backoff_seconds(*failures, 1.0, 60.0));
            if *failures >= END_TRIES {
                self.state = State::Over(Over::Exhausted);
            }
        }
    }

    fn forget_failures(&mut self) {
        if let State::Ending { failures, .. } = &mut self.state {
            *failures = 0;
        }
    }

    fn hold(&mut self, until: Instant) {
        if let State::Ending { not_before, .. } = &mut self.state {
            *not_before = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        second: Duration::from_secs(1),
        connect: Duration::from_secs(30),
        read: Duration::from_secs(600),
        stop_grace: Duration::from_secs(5),
    };

    fn reply(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }
    fn status(status: u16, job: &str) -> Reply {
        Reply { status, job_status: Some(job.into()), ..Reply::default() }
    }
    fn after(t: Instant, seconds: u64) -> Instant {
        t + Duration::from_secs(seconds)
    }

    #[test]
    fn first_word_is_that_the_job_runs_then_text_then_every_interval() {
        let t = Instant::now();
        let mut p = Progress::new(PACE, t, 0);
        assert_eq!(p.next(t, true), Step::KeepAlive);
        assert_eq!(p.kept_alive(t, &reply(200)), None);
        assert_eq!(p.next(t, true), Step::Patch);
        p.patched(t, 0, 10, &Reply { interval: Some(10.0), ..reply(202) });
        assert_eq!(p.offset(), 10);
        assert_eq!(p.next(after(t, 9), true), Step::Wait(after(t, 10)));
        assert_eq!(p.next(after(t, 10), true), Step::Patch);
        assert_eq!(p.next(after(t, 10), false), Step::Wait(after(t, 30)));
        assert_eq!(p.next(after(t, 30), false), Step::KeepAlive);
    }

    #[test]
    fn interval_of_the_server_is_bounded() {
        let t = Instant::now();
        let mut p = Progress::new(PACE, t, 0);
        p.kept_alive(t, &Reply { interval: Some(1e9), ..reply(200) });
        p.patched(t, 0, 1, &reply(202));
        assert_eq!(p.next_patch, after(t, 900));
    }

    #[test]
    fn range_of_416_is_the_next_offset_as_it_is() {
        let t = Instant::now();
        let mut p = Progress::new(PACE, t, 50);
        p.kept_alive(t, &reply(200));
        p.patched(t, 50, 5, &Reply { range_end: Some(10), ..reply(416) });
        assert_eq!(p.offset(), 10);
        assert_eq!(p.next(after(t, 1), true), Step::Wait(after(t, 3)));
        p.patched(after(t, 3), 10, 5, &reply(416));
        assert_eq!(p.offset(), 0, "without a range from the start");
    }

    /// Every state by every answer to every call: what becomes of the job.
    #[test]
    fn table_of_states_and_answers() {
        let t = Instant::now();
        let mut table = String::new();
        let running = |p: &mut Progress| assert_eq!(p.kept_alive(t, &reply(200)), None);
        let canceling = |p: &mut Progress| {
            p.kept_alive(t, &status(200, "canceling"));
        };
        let ending = |p: &mut Progress| p.ended(t);
        type Start<'a> = (&'a str, &'a dyn Fn(&mut Progress));
        let starts: [Start<'_>; 3] = [("running", &running), ("canceling", &canceling), ("ending", &ending)];
        for (name, prepare) in starts {
            for answer in [0, 200, 202, 400, 403, 404, 409, 412, 416, 500] {
                for job in ["", "running", "canceling", "canceled", "failed"] {
                    let answer = Reply {
                        status: answer,
                        job_status: (!job.is_empty() && answer != 0).then(|| job.to_string()),
                        ..Reply::default()
                    };
                    if answer.status == 0 && !job.is_empty() {
                        continue;
                    }
                    let mut cells = Vec::new();
                    for call in ["patch", "alive", "end"] {
                        if (call == "end") != (name == "ending") && call != "patch" {
                            continue;
                        }
                        let mut p = Progress::new(PACE, t, 7);
                        prepare(&mut p);
                        let cancel = match call {
                            "patch" => p.patched(t, 7, 3, &answer),
                            "alive" => p.kept_alive(t, &answer),
                            _ => {
                                p.told_end(t, &answer);
                                None
                            }
                        };
                        let state = match p.state() {
                            State::Running { canceling: false } => "running".to_string(),
                            State::Running { canceling: true } => "canceling".to_string(),
                            State::Ending { failures, not_before, trace_refused } => {
                                let wait = (not_before - t).as_secs();
                                format!("ending f{failures} w{wait}{}", if trace_refused { " no-trace" } else { "" })
                            }
                            State::Over(over) => format!("{over:?}"),
                        };
                        let cancel = cancel.map(|c| format!(" !{c:?}")).unwrap_or_default();
                        cells.push(format!("{call}: {state} @{}{cancel}", p.offset()));
                    }
                    table += &format!("{name:9} {:3} {job:9} | {}\n", answer.status, cells.join(" | "));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn end_is_told_after_the_last_text_and_repeated_on_202_as_the_server_says() {
        let t = Instant::now();
        let mut p = Progress::new(PACE, t, 0);
        p.ended(t);
        assert_eq!(p.next(t, true), Step::Patch);
        p.patched(t, 0, 100, &reply(202));
        assert_eq!(p.next(t, true), Step::Patch, "no interval between the last pieces");
        p.patched(t, 100, 100, &reply(202));
        assert_eq!(p.next(t, false), Step::TellEnd);
        p.told_end(t, &Reply { interval: Some(4.0), ..reply(202) });
        assert_eq!(p.next(t, false), Step::Wait(after(t, 4)));
        assert_eq!(p.next(after(t, 4), false), Step::TellEnd);
        p.told_end(after(t, 4), &reply(200));
        assert_eq!(p.next(after(t, 4), false), Step::Stop(Over::Acknowledged));
    }

    #[test]
    fn unreachable_server_is_tried_for_a_day() {
        let mut now = Instant::now();
        let start = now;
        let mut p = Progress::new(PACE, now, 0);
        p.ended(now);
        loop {
            match p.next(now, false) {
                Step::TellEnd => p.told_end(now, &Reply::none()),
                Step::Wait(until) => now = until,
                Step::Stop(over) => break assert_eq!(over, Over::Exhausted),
                step => panic!("{step:?}"),
            }
        }
        let hours = (now - start).as_secs_f64() / 3600.0;
        assert!((23.0..25.0).contains(&hours), "{hours}");
    }
}
