//! Who calls, and what they may do: the peer's uid on a Unix socket, a certificate of ours over TCP, plain TCP from
//! this machine only, and this process itself over an in-memory stream.

use crate::access::{Access, Caller, Role};
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

/// Who calls.
#[derive(Clone, Debug)]
pub struct Who {
    /// The name for records.
    pub name: String,
    /// What they may do.
    pub right: Right,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Everything: who can reach the socket owns the scheduler.
    Local,
    /// What the certificate's role allows.
    Certified(Role),
}

fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// The caller of a request.
///
/// # Errors
/// UNAUTHENTICATED for a stranger, PERMISSION_DENIED for a certificate that is not good any more.
pub fn of<T>(request: &Request<T>, access: Option<&Access>) -> Result<Who, Status> {
    let extensions = request.extensions();
    if let Some(tls) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
        let certificates = tls.peer_certs();
        let first = certificates.as_ref().and_then(|c| c.first());
        let (Some(certificate), Some(access)) = (first, access) else {
            return Err(Status::unauthenticated("a client certificate is needed here: `slipway join` gets one"));
        };
        let caller: Caller = access
            .identify(certificate.as_ref(), Timestamp::now())
            .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        return Ok(Who { name: caller.name, right: Right::Certified(caller.role) });
    }
    if let Some(uds) = extensions.get::<UdsConnectInfo>() {
        let uid = uds.peer_cred.map(|c| c.uid());
        let name = uid.map_or_else(|| "unknown".to_owned(), user_name);
        return Ok(Who { name, right: Right::Local });
    }
    if let Some(tcp) = extensions.get::<TcpConnectInfo>() {
        return match tcp.remote_addr() {
            Some(address) if address.ip().is_loopback() => Ok(Who { name: "loopback".into(), right: Right::Local }),
            _ => Err(Status::unauthenticated("plain TCP is for this machine only: use https and a certificate")),
        };
    }
    Ok(Who { name: user_name(Uid::current().as_raw()), right: Right::Local })
}

impl Who {
    /// Refuses nodes.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn person(&self) -> Result<(), Status> {
        match self.right {
            Right::Local | Right::Certified(Role::Developer | Role::Admin) => Ok(()),
            Right::Certified(Role::Node) => Err(Status::permission_denied("a node may not do what people do")),
        }
    }

    /// Refuses all but administrators.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn administrator(&self) -> Result<(), Status> {
        match self.right {
            Right::Local | Right::Certified(Role::Admin) => Ok(()),
            Right::Certified(Role::Developer | Role::Node) => {
                Err(Status::permission_denied("only an administrator may do this"))
            }
        }
    }

    /// Refuses people; a certified node speaks in its own name only.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn node(&self, name: Option<&str>) -> Result<(), Status> {
        match self.right {
            Right::Local => Ok(()),
            Right::Certified(Role::Node) => match name {
                Some(name) if name != self.name => {
                    Err(Status::permission_denied(format!("this certificate is of node {}, not of {name}", self.name)))
                }
                _ => Ok(()),
            },
            Right::Certified(Role::Developer | Role::Admin) => {
                Err(Status::permission_denied("a person's certificate is not a node's"))
            }
        }
    }
}
