//! Becoming, and ceasing to be, a runner of a server.

use super::client::{Answer, Call, CallError, Client};
use super::features;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a server says about a runner.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// GitLab's number of the runner; 0 when an old server does not say.
    pub id: u64,
    /// The runner authentication token.
    pub token: String,
    /// When the token ends.
    pub token_expires_at: Option<jiff::Timestamp>,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "runner {} (token hidden), expires {:?}", self.id, self.token_expires_at)
    }
}

/// Why the server does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It was not reached.
    #[error("{0}; check the address and that the server is up")]
    Unreached(#[from] CallError),
    /// The token is wrong, expired, or the runner was deleted.
    #[error("GitLab does not know this token ({0}); make a runner in GitLab and use the glrt- token shown there")]
    Forbidden(String),
    /// Registration tokens are switched off.
    #[error("GitLab no longer takes registration tokens ({0}); make a runner in GitLab and use --token glrt-…")]
    RegistrationTokensOff(String),
    /// Anything else.
    #[error("GitLab refused: {0}")]
    Refused(String),
    /// It says something that cannot be read.
    #[error("GitLab's answer cannot be read: {0}")]
    Unreadable(String),
}

fn refused(answer: &Answer) -> RegisterError {
    match answer.status {
        401 | 403 => RegisterError::Forbidden(answer.message()),
        410 => RegisterError::RegistrationTokensOff(answer.message()),
        _ => RegisterError::Refused(answer.message()),
    }
}

/// The runner's token as people may see it: without its prefix, nine characters.
#[must_use]
pub fn short_token(token: &str) -> String {
    let mut rest = token;
    for prefix in ["glrt-", "glrtr-", "glcbt-", "t1_", "t2_", "t3_"] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    rest.chars().take(9).collect()
}

/// Whether the runner was made in GitLab and may be shared by several machines.
#[must_use]
pub fn is_authentication_token(token: &str) -> bool {
    token.starts_with("glrt-") || ["t1_", "t2_", "t3_"].iter().any(|p| token.starts_with(p))
}

/// `POST /runners/verify`. The features go along: the server remembers them, and without `cancel_gracefully` the first
/// cancelled job would lose its `after_script`.
///
/// # Errors
/// The token is not known, or the server was not reached.
pub async fn verify(
    client: &Client,
    token: &str,
    system_id: &str,
    architecture: Option<&str>,
) -> Result<Registration, RegisterError> {
    let body = json!({ "token": token, "system_id": system_id, "info": features::info(architecture) });
    let call = Call::new(Method::POST, "/runners/verify").header("RUNNER-TOKEN", token).json(&body);
    let answer = client.call(&call).await?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    // Servers up to 15.9 answer the plain text "200".
    let mut registration: Registration = serde_json::from_slice(&answer.body).unwrap_or_default();
    if registration.token.is_empty() {
        registration.token = token.to_string();
    }
    Ok(registration)
}

/// What a legacy registration may say about the runner; a runner made in GitLab has all of it there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LegacyOptions {
    /// Its description.
    pub description: Option<String>,
    /// For the admins of the server.
    pub maintenance_note: Option<String>,
    /// Tags that its jobs must not exceed.
    pub tags: Vec<String>,
    /// It takes jobs without tags.
    pub run_untagged: Option<bool>,
    /// It stays with its first project.
    pub locked: Option<bool>,
    /// `not_protected` or `ref_protected`.
    pub access_level: Option<String>,
    /// Seconds that its jobs may take.
    pub maximum_timeout: Option<u64>,
    /// It takes no jobs yet.
    pub paused: Option<bool>,
}

/// `POST /runners` with a registration token; the answer holds the authentication token.
///
/// # Errors
/// The token is not known, registration tokens are switched off, or the server was not reached.
pub async fn register_legacy(
    client: &Client,
    registration_token: &str,
    options: &LegacyOptions,
    architecture: Option<&str>,
) -> Result<Registration, RegisterError> {
    let mut body = json!({ "token": registration_token, "info": features::info(architecture) });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[key] = value;
        }
    };
    put("description", options.description.as_ref().map(|d| json!(d)));
    put("maintenance_note", options.maintenance_note.as_ref().map(|n| json!(n)));
    put("tag_list", (!options.tags.is_empty()).then(|| json!(options.tags.join(","))));
    // A runner without tags that takes no untagged job is refused by the server.
    let run_untagged = if options.tags.is_empty() { Some(true) } else { options.run_untagged };
    put("run_untagged", run_untagged.map(|r| json!(r)));
    put("locked", options.locked.map(|l| json!(l)));
    put("access_level", options.access_level.as_ref().map(|a| json!(a)));
    put("maximum_timeout", options.maximum_timeout.map(|t| json!(t)));
    put("paused", options.paused.map(|p| json!(p)));
    let answer = client.call(&Call::new(Method::POST, "/runners").json(&body)).await?;
    if answer.status != 201 {
        return Err(refused(&answer));
    }
    let registration: Registration =
        serde_json::from_slice(&answer.body).map_err(|e| RegisterError::Unreadable(e.to_string()))?;
    if registration.token.is_empty() {
        return Err(RegisterError::Unreadable("it holds no token".into()));
    }
    Ok(registration)
}

/// Ceases to be a runner. A runner made in GitLab may be shared by other machines: only this one is taken off it
/// (`DELETE /runners/managers`); one of the legacy flow is deleted (`DELETE /runners`).
///
/// # Errors
/// The token is not known, or the server was not reached.
pub async fn unregister(client: &Client, token: &str, system_id: &str) -> Result<(), RegisterError> {
    let (path, body) = if is_authentication_token(token) {
        ("/runners/managers", json!({ "token": token, "system_id": system_id }))
    } else {
        ("/runners", json!({ "token": token }))
    };
    let call = Call::new(Method::DELETE, path).header("RUNNER-TOKEN", token).json(&body);
    let answer = client.call(&call).await?;
    match answer.status {
        204 => Ok(()),
        // This machine never asked for a job: there is nothing to take off.
        404 if is_authentication_token(token) => Ok(()),
        _ => Err(refused(&answer)),
    }
}

/// `POST /runners/reset_authentication_token`: a new token; the old one stops working at once.
///
/// # Errors
/// The token is not known, or the server was not reached.
pub async fn reset_token(client: &Client, token: &str) -> Result<Registration, RegisterError> {
    let call = Call::new(Method::POST, "/runners/reset_authentication_token")
        .header("RUNNER-TOKEN", token)
        .json(&json!({ "token": token }));
    let answer = client.call(&call).await?;
    if answer.status != 201 {
        return Err(refused(&answer));
    }
    let registration: Registration =
        serde_json::from_slice(&answer.body).map_err(|e| RegisterError::Unreadable(e.to_string()))?;
    if registration.token.is_empty() {
        return Err(RegisterError::Unreadable("it holds no token".into()));
    }
    Ok(registration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tokens_have_no_prefix_and_nine_characters() {
        assert_eq!(short_token("glrt-t1_0123456789abcdef"), "012345678");
        assert_eq!(short_token("glrt-abcdefghijkl"), "abcdefghi");
        assert_eq!(short_token("short"), "short");
    }
}
