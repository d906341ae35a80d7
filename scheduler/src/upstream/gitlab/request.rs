//! `POST /jobs/request`: when an upstream asks, what it sends along, and what an answer means.
//!
//! [`Asking`] is pure: `last_update`, the wait after an answer, the health. The driver is in [`super::runner`].

use super::client::{Answer, Call};
use super::config::{Pace, UpstreamConfig};
use super::features;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

/// One upstream's questions.
#[derive(Clone, Debug)]
pub struct Asking {
    last_update: Option<String>,
    refusals: u32,
    check_interval: Duration,
    strict: bool,
    refusals_most: u32,
    unhealthy: Duration,
}

/// What comes after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A job is in the answer; then ask again after the wait.
    Take(Duration),
    /// Nothing; ask again after the wait.
    Wait(Duration),
    /// The server refuses us again and again: leave it alone for so long.
    Unhealthy(Duration),
}

impl Asking {
    /// Before the first question.
    #[must_use]
    pub fn new(config: &UpstreamConfig, pace: Pace) -> Self {
        // 0 means the default, as for the official runner.
        let interval = if config.check_interval_seconds == 0 { 3 } else { config.check_interval_seconds };
        Asking {
            last_update: None,
            refusals: 0,
            check_interval: pace.seconds(interval as f64),
            strict: config.strict_check_interval,
            refusals_most: config.unhealthy_requests_limit.max(1),
            unhealthy: pace.seconds(config.unhealthy_interval_seconds as f64),
        }
    }

    /// The question. `patient`: the server may hold it (up to 50 s) until there is a job. Without patience
    /// `last_update` stays away, and the server answers at once: for upstreams that share the last free node.
    #[must_use]
    pub fn question(&self, token: &str, system_id: &str, architecture: Option<&str>, patient: bool) -> Call {
        let mut body = json!({ "token": token, "system_id": system_id, "info": features::info(architecture) });
        if let Some(last_update) = self.last_update.as_ref().filter(|_| patient) {
            body["last_update"] = json!(last_update);
        }
        Call::new(Method::POST, "/jobs/request").header("RUNNER-TOKEN", token).json(&body)
    }

    /// An answer came; `None` for none.
    pub fn answered(&mut self, answer: Option<&Answer>) -> Next {
        let Some(answer) = answer else { return Next::Wait(self.check_interval) };
        // A missing header leaves the value alone: the front server answers without it when its long poll ends.
        if let Some(value) = answer.header("x-gitlab-last-update") {
            self.last_update = Some(value.to_string());
        }
        if answer.status == 403 {
            self.refusals += 1;
            if self.refusals >= self.refusals_most {
                self.refusals = 0;
                return Next::Unhealthy(self.unhealthy);
            }
            return Next::Wait(self.check_interval);
        }
        self.refusals = 0;
        let is_json = answer
            .header("content-type")
            .is_some_and(|t| t.split(';').next().unwrap_or("").trim() == "application/json");
        match answer.status {
            201 if is_json => Next::Take(if self.strict { self.check_interval } else { Duration::ZERO }),
            _ => Next::Wait(self.check_interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use reqwest::header::{HeaderMap, HeaderValue};

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers: HeaderMap = headers
            .iter()
            .map(|(k, v)| (reqwest::header::HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect();
        Answer { status, headers, body: Bytes::new(), retried: false }
    }

    #[test]
    fn last_update_survives_answers_without_it() {
        let mut asking = Asking::new(&UpstreamConfig::new("g", "http://h", "t"), Pace::default());
        assert_eq!(asking.last_update, None);
        asking.answered(Some(&answer(204, &[("x-gitlab-last-update", "A")])));
        asking.answered(Some(&answer(204, &[])));
        asking.answered(Some(&answer(409, &[])));
        asking.answered(None);
        assert_eq!(asking.last_update.as_deref(), Some("A"));
        asking.answered(Some(&answer(204, &[("x-gitlab-last-update", "")])));
        assert_eq!(asking.last_update.as_deref(), Some("A"));
    }

    #[test]
    fn three_refusals_in_a_row_make_unhealthy_and_anything_else_starts_over() {
        let mut asking = Asking::new(&UpstreamConfig::new("g", "http://h", "t"), Pace::default());
        let wait = Next::Wait(Duration::from_secs(3));
        for status in [403, 403, 204, 403, 403, 500] {
            assert_eq!(asking.answered(Some(&answer(status, &[]))), wait, "{status}");
        }
        assert_eq!(asking.answered(Some(&answer(403, &[]))), wait);
        assert_eq!(asking.answered(Some(&answer(403, &[]))), wait);
        assert_eq!(asking.answered(Some(&answer(403, &[]))), Next::Unhealthy(Duration::from_secs(3600)));
    }

    #[test]
    fn job_is_taken_from_json_only() {
        let mut asking = Asking::new(&UpstreamConfig::new("g", "http://h", "t"), Pace::default());
        let json = answer(201, &[("content-type", "application/json; charset=utf-8")]);
        assert_eq!(asking.answered(Some(&json)), Next::Take(Duration::ZERO));
        let html = answer(201, &[("content-type", "text/html")]);
        assert_eq!(asking.answered(Some(&html)), Next::Wait(Duration::from_secs(3)));
    }
}
