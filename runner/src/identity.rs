//! What a node or person shows the scheduler over TCP: a key made here that never leaves, and the certificate over it.
//!
//! A folder holds `client.key`, `client.pem` and `ca.pem`. The key is made anew at each renewal; the three files are
//! written under new names and renamed, the certificate last, so that a reader finds a pair that belongs together or
//! the one before it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use slipway_wire::v1;
use slipway_wire::v1::runner_client::RunnerClient;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A folder with a key, its certificate, and the authority.
#[derive(Clone, Debug)]
pub struct Identity {
    folder: PathBuf,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of the folder.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Read or write.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{} does not hold what it should: {why}; join again", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The token.
    #[error("this is no token of a scheduler ({0}): copy the whole line that `slipway token` printed")]
    Token(&'static str),
    /// The key or the request.
    #[error("cannot make a key and a certificate request: {0}")]
    Key(#[from] rcgen::Error),
    /// The way to the scheduler.
    #[error("cannot reach the scheduler at {address} with the authority in the token: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The scheduler's answer.
    #[error("the scheduler refused: {0}")]
    Refused(String),
}

impl Identity {
    /// The identity in `folder`.
    #[must_use]
    pub fn at(folder: &Path) -> Identity {
        Identity { folder: folder.to_owned() }
    }

    /// Trades a one-time token for an identity, and keeps it in `folder`.
    ///
    /// # Errors
    /// When the token is none, the scheduler cannot be reached or refuses, or the folder cannot be written.
    pub async fn join(folder: &Path, address: &str, token: &str, name: &str) -> Result<Identity, IdentityError> {
        let (_, authority) = token.trim().split_once('.').ok_or(IdentityError::Token("it has no second half"))?;
        let der = URL_SAFE_NO_PAD.decode(authority).map_err(|_| IdentityError::Token("its second half is damaged"))?;
        let ca = pem("CERTIFICATE", &der);
        let connect = |source| IdentityError::Connect { address: address.to_owned(), source };
        let channel = Endpoint::from_shared(address.to_owned())
            .and_then(|e| e.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca))))
            .map_err(connect)?
            .connect()
            .await
            .map_err(connect)?;
        let (key, csr_pem) = request()?;
        let request = v1::JoinRequest { token: token.trim().to_owned(), node: name.to_owned(), csr_pem };
        let reply = RunnerClient::new(channel).join(request).await.map_err(|s| refused(&s))?.into_inner();
        let identity = Identity::at(folder);
        identity.keep(&key, &reply)?;
        Ok(identity)
    }

    /// Trades this identity for a new one over `channel`. The next connection uses it.
    ///
    /// # Errors
    /// When the scheduler refuses, or the folder cannot be written; the old identity stays.
    pub async fn renew(&self, channel: Channel) -> Result<(), IdentityError> {
        let (key, csr_pem) = request()?;
        let reply = RunnerClient::new(channel).renew(v1::RenewRequest { csr_pem }).await.map_err(|s| refused(&s))?;
        self.keep(&key, &reply.into_inner())
    }

    /// What a TLS client shows and trusts, as the folder holds it now.
    ///
    /// # Errors
    /// When a file is missing (nobody has joined), or does not hold what it should.
    pub fn tls(&self) -> Result<rustls::ClientConfig, IdentityError> {
        let content = |name: &str, why: String| IdentityError::Content { path: self.folder.join(name), why };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.read("ca.pem")?) {
            let certificate = certificate.map_err(|e| content("ca.pem", e.to_string()))?;
            roots.add(certificate).map_err(|e| content("ca.pem", e.to_string()))?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read("client.pem")?).collect();
        let chain = chain.map_err(|e| content("client.pem", e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&self.read("client.key")?);
        let key = key.map_err(|e| content("client.key", e.to_string()))?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| content("client.pem", e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Asks for a new certificate whenever a third of its time is over, for ever. A refusal or a broken connection is
    /// logged and tried again an hour later. Cancel-safe.
    pub async fn keep_renewed(&self, channel: Channel) {
        let every = Duration::from_secs(slipway_wire::CERTIFICATE_SECONDS / 3);
        loop {
            let age = std::fs::metadata(self.folder.join("client.pem"))
                .and_then(|m| m.modified())
                .map_or(every, |at: SystemTime| at.elapsed().unwrap_or_default());
            tokio::time::sleep(every.saturating_sub(age)).await;
            match self.renew(channel.clone()).await {
                Ok(()) => tracing::info!("certificate renewed"),
                Err(error) => {
                    tracing::warn!(%error, "certificate not renewed; next try in an hour");
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
            }
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, IdentityError> {
        let path = self.folder.join(name);
        fs::read(&path).map_err(|source| IdentityError::File { what: "read", path, source })
    }

    fn keep(&self, key_pem: &str, reply: &v1::JoinReply) -> Result<(), IdentityError> {
        let folder_error = |source| IdentityError::File { what: "make", path: self.folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(folder_error)?;
        let files = [("client.key", key_pem), ("ca.pem", &reply.ca_pem), ("client.pem", &reply.certificate_pem)];
        for (name, text) in files {
            let new = self.folder.join(format!("{name}.new"));
            let written = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)
                .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()));
            written.map_err(|source| IdentityError::File { what: "write", path: new, source })?;
        }
        for (name, _) in files {
            let path = self.folder.join(name);
            let renamed = fs::rename(self.folder.join(format!("{name}.new")), &path);
            renamed.map_err(|source| IdentityError::File { what: "write", path, source })?;
        }
        Ok(())
    }
}

/// A new key, and a request over it. The name in it does not count: the scheduler puts in its own.
fn request() -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

fn refused(status: &tonic::Status) -> IdentityError {
    IdentityError::Refused(status.message().to_owned())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap_or("")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
