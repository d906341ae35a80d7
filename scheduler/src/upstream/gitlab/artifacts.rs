//! Artifacts up and down: `POST` and `GET /jobs/:id/artifacts`, each with the retries that its answers call for.

use super::client::{Answer, Client, backoff_seconds, bounded_body, random};
use super::spool::Facts;
use crate::upstream::Upload;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Body, Url};
use slipway_spec::job::ArtifactFormat;
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio_util::io::ReaderStream;

/// Attempts of an upload in all, by what came back. Official: 3, and 6 while the storage is down.
const ATTEMPTS: u32 = 3;
const ATTEMPTS_UNAVAILABLE: u32 = 6;
/// Attempts while the server cannot be reached: with the pauses between them about ten minutes. (The official client
/// must pack anew for each attempt and makes 3; our file is on disk.)
const ATTEMPTS_UNREACHED: u32 = 15;
/// Attempts of a download, one second apart. Official: 3.
const DOWNLOAD_ATTEMPTS: u32 = 3;
/// Addresses that a download is sent on to.
const REDIRECTS: u32 = 5;
/// Bytes of a download whose size the server did not tell.
const DOWNLOAD_LIMIT: u64 = 8 << 30;

/// The server does not take, or give, an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ArtifactError {
    /// One line for the job's trace.
    pub text: String,
    /// The server's limits or rules are the cause, not an outage.
    pub jobs_fault: bool,
}

enum Attempt {
    Answered(Answer),
    Unreached(String),
}

fn format_word(format: ArtifactFormat) -> &'static str {
    match format {
        ArtifactFormat::Zip => "zip",
        ArtifactFormat::Gzip => "gzip",
        ArtifactFormat::Raw => "raw",
    }
}

/// Sends a file and waits for the server's word.
///
/// # Errors
/// The server does not take it, or was not reached for ten minutes.
pub async fn upload(client: &Client, facts: &Facts, upload: Upload<'_>) -> Result<(), ArtifactError> {
    let kind = if upload.kind.is_empty() { "archive" } else { upload.kind };
    let mut query =
        vec![("artifact_type", kind.to_string()), ("artifact_format", format_word(upload.format).to_string())];
    if let Some(expire_in) = upload.expire_in.filter(|e| !e.is_empty()) {
        query.push(("expire_in", expire_in.to_string()));
    }
    let mut url = client.address(&format!("/jobs/{}/artifacts", facts.remote.id), &query);
    let fail = |what: String, jobs_fault| {
        Err(ArtifactError { text: format!("Uploading artifacts as \"{kind}\" to GitLab failed: {what}"), jobs_fault })
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (what, most, fault) = match send(client, facts, &upload, &url).await {
            Err(error) => return fail(format!("cannot read {}: {error}", upload.name), false),
            Ok(Attempt::Unreached(error)) => (error, ATTEMPTS_UNREACHED, false),
            Ok(Attempt::Answered(answer)) => match answer.status {
                200..=299 => return Ok(()),
                413 => return fail(format!("{} — too large for the server's limit", answer.message()), true),
                403 => return fail(answer.message(), false),
                307 => {
                    if let Some(origin) = answer.header("location").and_then(|l| Url::parse(l).ok()) {
                        move_to(&mut url, &origin);
                    }
                    ("HTTP 307: sent on to another server".into(), ATTEMPTS, false)
                }
                503 => (answer.message(), ATTEMPTS_UNAVAILABLE, false),
                400 => (answer.message(), ATTEMPTS, true),
                _ => (answer.message(), ATTEMPTS, false),
            },
        };
        if attempt >= most {
            return fail(format!("{what} (tried {attempt} times)"), fault);
        }
        tracing::warn!(job = %facts.remote, kind, attempt, what, "an upload is tried again");
        tokio::time::sleep(client.pace().seconds(backoff_seconds(attempt, 1.0, 60.0))).await;
    }
}

/// Scheme and host of `origin`; path and query stay.
fn move_to(url: &mut Url, origin: &Url) {
    let mut moved = origin.clone();
    moved.set_path(url.path());
    moved.set_query(url.query());
    *url = moved;
}

/// One attempt. `Err` is our own disk.
async fn send(client: &Client, facts: &Facts, upload: &Upload<'_>, url: &Url) -> std::io::Result<Attempt> {
    let file = File::open(upload.file).await?;
    let length = file.metadata().await?.len();
    let boundary: String = random::<16>().iter().map(|b| format!("{b:02x}")).collect();
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: \
         application/octet-stream\r\n\r\n",
        header_safe(upload.name)
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let total = head.len() as u64 + length + tail.len() as u64;
    let once = |text: String| stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(text)) });
    let body = once(head).chain(ReaderStream::with_capacity(file, 64 << 10)).chain(once(tail));
    let sent = client
        .http()
        .post(url.clone())
        .header("JOB-TOKEN", facts.token.0.as_str())
        .header("content-type", format!("multipart/form-data; boundary={boundary}"))
        .header("content-length", total)
        .header("accept", "application/json")
        .body(Body::wrap_stream(body))
        .send()
        .await;
    let response = match sent {
        Ok(response) => response,
        Err(error) => return Ok(Attempt::Unreached(cause(&error.without_url()))),
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = bounded_body(response, 64 << 10).await.unwrap_or_default();
    Ok(Attempt::Answered(Answer { status, headers, body, retried: false }))
}

/// A file name inside a quoted header value.
fn header_safe(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let safe: String = base.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '_' } else { c }).collect();
    if safe.is_empty() { "default".into() } else { safe }
}

/// An error with what is below it.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text = format!("{text}: {error}");
        below = error.source();
    }
    text
}

/// Fetches the archive of the job `dependency` into a file and returns its length. The first attempt asks for the
/// object storage's own address, later ones go by the server.
///
/// # Errors
/// It is not there, may not be read, or could not be fetched in three attempts.
pub async fn download(
    client: &Client,
    facts: &Facts,
    dependency: u64,
    expected: u64,
    into: &Path,
) -> Result<u64, ArtifactError> {
    let fail = |what: String, jobs_fault| {
        Err(ArtifactError { text: format!("Downloading artifacts of job {dependency} failed: {what}"), jobs_fault })
    };
    let Some(token) = facts.dependency_tokens.get(&dependency) else {
        return fail("GitLab did not list it as a dependency".into(), true);
    };
    let limit = if expected > 0 { expected.saturating_add(1 << 20) } else { DOWNLOAD_LIMIT };
    let path = format!("/jobs/{dependency}/artifacts");
    let mut attempt = 0;
    loop {
        attempt += 1;
        let query = if attempt == 1 { vec![("direct_download", "true".to_string())] } else { Vec::new() };
        let what = match fetch(client, client.address(&path, &query), &token.0, limit, into).await {
            Ok(Fetched::Whole(bytes)) => return Ok(bytes),
            Ok(Fetched::Refused(404, what)) => return fail(format!("{what}: they expired or were deleted"), true),
            Ok(Fetched::Refused(401 | 403, what)) => return fail(what, false),
            Ok(Fetched::Refused(_, what)) => what,
            Err(error) => return fail(format!("cannot write {}: {error}", into.display()), false),
        };
        if attempt >= DOWNLOAD_ATTEMPTS {
            return fail(format!("{what} (tried {attempt} times)"), false);
        }
        tracing::warn!(job = %facts.remote, dependency, attempt, what, "a download is tried again");
        tokio::time::sleep(client.pace().seconds(1.0)).await;
    }
}

enum Fetched {
    Whole(u64),
    /// Status, 0 for none, and what to say.
    Refused(u16, String),
}

/// One attempt. `Err` is our own disk.
async fn fetch(client: &Client, url: Url, token: &str, limit: u64, into: &Path) -> std::io::Result<Fetched> {
    let mut request = client.http().get(url.clone()).header("JOB-TOKEN", token);
    let mut here = url;
    for _ in 0..REDIRECTS {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Fetched::Refused(0, cause(&error.without_url()))),
        };
        let status = response.status().as_u16();
        if matches!(status, 301 | 302 | 303 | 307 | 308) {
            let location = response.headers().get("location").and_then(|l| l.to_str().ok());
            let Some(next) = location.and_then(|l| here.join(l).ok()) else {
                return Ok(Fetched::Refused(status, format!("HTTP {status} without an address to go to")));
            };
            // The other host must not see our token, and signed addresses refuse a second credential.
            request = client.http().get(next.clone());
            here = next;
            continue;
        }
        if status != 200 {
            let headers = response.headers().clone();
            let body = bounded_body(response, 64 << 10).await.unwrap_or_default();
            return Ok(Fetched::Refused(status, Answer { status, headers, body, retried: false }.message()));
        }
        let mut file = BufWriter::with_capacity(256 << 10, File::create(into).await?);
        let mut written = 0u64;
        let mut chunks = response.bytes_stream().map_err(|e| cause(&e.without_url()));
        while let Some(chunk) = chunks.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(what) => return Ok(Fetched::Refused(0, what)),
            };
            written += chunk.len() as u64;
            if written > limit {
                return Ok(Fetched::Refused(0, format!("it is longer than the {limit} bytes expected at most")));
            }
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        return Ok(Fetched::Whole(written));
    }
    Ok(Fetched::Refused(0, format!("sent on more than {REDIRECTS} times")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_cannot_break_out_of_their_header() {
        assert_eq!(header_safe("a\"\r\nX: y"), "a___X: y");
        assert_eq!(header_safe("dir/artifacts.zip"), "artifacts.zip");
        assert_eq!(header_safe(""), "default");
    }

    #[test]
    fn redirect_of_an_upload_changes_scheme_and_host_only() {
        let mut url = Url::parse("http://a/gitlab/api/v4/jobs/1/artifacts?artifact_type=archive").unwrap();
        move_to(&mut url, &Url::parse("https://b:8443/elsewhere?x=y").unwrap());
        assert_eq!(url.as_str(), "https://b:8443/gitlab/api/v4/jobs/1/artifacts?artifact_type=archive");
    }
}
