//! HTTP as GitLab's runner API wants it: base address, headers, and the retries inside one call.

use super::config::{Pace, UpstreamConfig};
use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts of one call, the first included. Official: 5.
pub const ATTEMPTS: u32 = 5;
/// An answer's body is cut off here: a job's payload is far smaller, an error page is not needed whole.
const ANSWER_LIMIT: usize = 32 << 20;

/// A server's address and how it is spoken to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    pace: Pace,
}

/// Why an upstream's client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address.
    #[error("the address {url:?} cannot be used: {reason}; write it as https://gitlab.example.com")]
    Address {
        /// As written.
        url: String,
        /// Why.
        reason: String,
    },
    /// A certificate or key.
    #[error("cannot use {path} for TLS: {reason}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The HTTP library.
    #[error("cannot set up HTTP: {0}")]
    Http(#[source] reqwest::Error),
}

/// A call that brought no answer: the connection failed, was cut, or took too long. The server may have acted on it.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} brought no answer: {source}")]
pub struct CallError {
    /// What was tried.
    pub method: Method,
    /// On what, without the server's address.
    pub path: String,
    /// What the network said, without addresses that may hold secrets.
    #[source]
    pub source: reqwest::Error,
}

/// One call. The body is bytes, so that it can be sent again.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// A call of a path below `/api/v4`, such as `/jobs/request`.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Call { method, path: path.into(), query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header. Text that cannot be a header's value (a token with a line break) is left out, and the server
    /// says what is missing.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(name.ends_with("TOKEN"));
            self.headers.insert(HeaderName::from_bytes(name.as_bytes()).expect("names are constants"), value);
        }
        self
    }

    /// Adds a parameter to the address.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Sends JSON. Its content type is load-bearing: GitLab's front server long-polls only for JSON.
    #[must_use]
    pub fn json(mut self, value: &serde_json::Value) -> Self {
        self.body = Bytes::from(value.to_string());
        self.header("content-type", "application/json").header("accept", "application/json")
    }

    /// Sends text.
    #[must_use]
    pub fn text(mut self, body: Bytes) -> Self {
        self.body = body;
        self.header("content-type", "text/plain")
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, cut off at 32 MiB.
    pub body: Bytes,
    /// Some attempt before it was answered by a status that calls for a retry.
    pub retried: bool,
}

impl Answer {
    /// A header's text; `None` when missing, empty or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty())
    }

    /// The server's words about an error, cut to one short line. Both shapes of `message` occur, and HTML of proxies.
    #[must_use]
    pub fn message(&self) -> String {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = match value.get("message").or_else(|| value.get("error")) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        if line.is_empty() { format!("HTTP {}", self.status) } else { format!("HTTP {}: {line}", self.status) }
    }
}

impl Client {
    /// A client of the upstream's server. Proxies come from `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.
    ///
    /// # Errors
    /// Address or certificates cannot be used.
    pub fn new(config: &UpstreamConfig, pace: Pace) -> Result<Self, SetupError> {
        // A second installation is refused by rustls and changes nothing: whoever comes first has chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base_address(&config.url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("slipway ", env!("CARGO_PKG_VERSION"), " (gitlab-runner compatible)"))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(pace.connect)
            .read_timeout(pace.read)
            // The official runner opens connections anew after 15 minutes, so that a moved server is found.
            .pool_idle_timeout(Duration::from_secs(60));
        if base.scheme() == "https" {
            builder = builder.min_tls_version(reqwest::tls::Version::TLS_1_2);
        }
        if let Some(path) = &config.tls_ca_file {
            let certificates = reqwest::Certificate::from_pem_bundle(&read(path)?)
                .map_err(|e| SetupError::Certificate { path: path.clone(), reason: e.to_string() })?;
            builder = builder.tls_certs_merge(certificates);
        }
        if let (Some(certificate), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) {
            let mut pem = read(key)?;
            pem.push(b'\n');
            pem.extend(read(certificate)?);
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|e| SetupError::Certificate { path: certificate.clone(), reason: e.to_string() })?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(SetupError::Http)?;
        Ok(Client { http, base, pace })
    }

    /// The pace it was made with.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// The HTTP client below, for bodies that stream.
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The address of a path below `/api/v4`, on this server or on `origin`.
    pub(super) fn address(&self, path: &str, query: &[(&'static str, String)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query.iter().map(|(k, v)| (*k, v.as_str())));
        }
        url
    }

    /// Makes a call, again while the answer calls for it: at most [`ATTEMPTS`] times, waiting as the server says, or
    /// longer each time. The last answer is returned whatever it is.
    ///
    /// Cancel-safe in so far as dropping it leaves no task; the server may have acted.
    ///
    /// # Errors
    /// There was no answer. Such failures are not retried here: the caller knows whether it may.
    pub async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let url = self.address(&call.path, &call.query);
        let mut attempt = 1;
        loop {
            let mut answer = self.once(call, url.clone()).await?;
            answer.retried = attempt > 1;
            if !calls_for_retry(answer.status) || attempt == ATTEMPTS {
                return Ok(answer);
            }
            let wait = self.wait_before_retry(&answer, attempt);
            tracing::debug!(status = answer.status, path = call.path, ?wait, "call is tried again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn once(&self, call: &Call, url: Url) -> Result<Answer, CallError> {
        let fail = |e: reqwest::Error| CallError {
            method: call.method.clone(),
            path: call.path.clone(),
            source: e.without_url(),
        };
        let response = self
            .http
            .request(call.method.clone(), url)
            .headers(call.headers.clone())
            .header("x-request-id", request_id())
            .body(call.body.clone())
            .send()
            .await
            .map_err(fail)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = bounded_body(response, ANSWER_LIMIT).await.map_err(fail)?;
        Ok(Answer { status, headers, body, retried: false })
    }

    fn wait_before_retry(&self, answer: &Answer, attempt: u32) -> Duration {
        if let Some(reset) = answer.header("ratelimit-resettime").and_then(http_date) {
            let until = reset.duration_since(jiff::Timestamp::now());
            if let Ok(until) = Duration::try_from(until)
                && !until.is_zero()
            {
                return until.min(Duration::from_secs(3600));
            }
        }
        if let Some(after) = answer.header("retry-after").and_then(|v| v.parse::<f64>().ok()) {
            return self.pace.seconds(after.min(3600.0));
        }
        self.pace.seconds(backoff_seconds(attempt, 0.1, 60.0) * jitter())
    }
}

/// An answer's body, cut off at `limit`.
pub(super) async fn bounded_body(mut response: reqwest::Response, limit: usize) -> reqwest::Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let left = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if body.len() == limit {
            break;
        }
    }
    Ok(body.freeze())
}

/// `https://host/gitlab/` and `https://host/gitlab/ci` become `https://host/gitlab/api/v4`.
fn base_address(url: &str) -> Result<Url, SetupError> {
    let fail = |reason: String| SetupError::Address { url: url.to_string(), reason };
    let trimmed = url.trim().trim_end_matches('/');
    let trimmed = trimmed.strip_suffix("/ci").unwrap_or(trimmed);
    let mut base = Url::parse(trimmed).map_err(|e| fail(e.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(fail(format!("its scheme is `{}`", base.scheme())));
    }
    base.set_query(None);
    base.set_fragment(None);
    let path = format!("{}/api/v4", base.path().trim_end_matches('/'));
    base.set_path(&path);
    Ok(base)
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    std::fs::read(path).map_err(|e| SetupError::Certificate { path: path.to_path_buf(), reason: e.to_string() })
}

/// 408, 429, 500, 502, 503, 504 and everything from 512 on; 409 and 501 are answers.
fn calls_for_retry(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 512..)
}

/// `first`, doubled with each attempt, up to `most`.
pub(super) fn backoff_seconds(attempt: u32, first: f64, most: f64) -> f64 {
    (first * 2f64.powi(attempt.saturating_sub(1).min(40) as i32)).min(most)
}

/// Between a half and one and a half, so that many runners do not come back at the same moment.
fn jitter() -> f64 {
    0.5 + f64::from(random::<2>().map(u32::from).iter().fold(0, |n, b| n << 8 | b)) / 65535.0
}

fn http_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// A UUID without dashes: what `X-Request-Id` holds.
fn request_id() -> String {
    random::<16>().iter().map(|b| format!("{b:02x}")).collect()
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_address_of_a_relative_root_keeps_the_root_and_has_one_slash() {
        for (given, expected) in [
            ("https://host/gitlab/", "https://host/gitlab/api/v4"),
            ("https://host/gitlab", "https://host/gitlab/api/v4"),
            ("https://host", "https://host/api/v4"),
            ("https://host/", "https://host/api/v4"),
            ("http://host:8080/ci", "http://host:8080/api/v4"),
            ("https://host/gitlab/ci/", "https://host/gitlab/api/v4"),
        ] {
            assert_eq!(base_address(given).unwrap().as_str(), expected, "{given}");
        }
        assert!(base_address("ftp://host").is_err());
        assert!(base_address("gitlab.example.com").is_err());
    }

    #[test]
    fn retry_statuses_are_those_of_the_official_client() {
        for status in [408, 429, 500, 502, 503, 504, 512, 599] {
            assert!(calls_for_retry(status), "{status}");
        }
        for status in [200, 201, 204, 302, 400, 401, 403, 404, 409, 413, 416, 501, 505, 511] {
            assert!(!calls_for_retry(status), "{status}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_end() {
        assert_eq!(backoff_seconds(1, 0.1, 60.0), 0.1);
        assert_eq!(backoff_seconds(3, 0.1, 60.0), 0.4);
        assert_eq!(backoff_seconds(30, 0.1, 60.0), 60.0);
        assert_eq!(backoff_seconds(u32::MAX, 1.0, 60.0), 60.0);
    }

    #[test]
    fn http_date_is_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().as_second(), 784_111_777);
        assert!(http_date("tomorrow").is_none());
    }
}
