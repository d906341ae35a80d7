//! TLS: joining by a one-time token, certificates that are asked for, renewed and taken back.

use crate::support::{Node, Repo, Site, hello, soon};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use slipway_scheduler::config::Config;
use slipway_wire::v1;
use slipway_wire::v1::control_client::ControlClient;
use slipway_wire::v1::runner_client::RunnerClient;
use std::net::SocketAddr;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

fn request(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

async fn connect(
    address: SocketAddr,
    ca_pem: &str,
    identity: Option<(&str, &str)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).domain_name("localhost");
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

struct Door {
    site: Site,
    address: SocketAddr,
    ca_pem: String,
    _folder: tempfile::TempDir,
}

impl Door {
    async fn open() -> Door {
        let config = Config { listen: Some("127.0.0.1:0".parse().unwrap()), ..Config::default() };
        let (site, folder) = Site::start(config).await;
        let address = site.scheduler.listen().await.unwrap().unwrap();
        let access = site.scheduler.access().unwrap();
        let ca_pem = access.server(&["localhost".to_owned()], jiff::Timestamp::now()).unwrap().ca_pem;
        Door { site, address, ca_pem, _folder: folder }
    }

    async fn token(&self, role: &str, name: &str) -> String {
        let asked = v1::CreateTokenRequest { role: role.into(), name: name.into(), valid_seconds: 600 };
        self.site.control().create_token(asked).await.unwrap().into_inner().text
    }

    /// Joins; certificate and key.
    async fn join(&self, token: &str, name: &str) -> Result<(String, String), tonic::Status> {
        let (csr_pem, key) = request(name);
        let mut stranger = RunnerClient::new(connect(self.address, &self.ca_pem, None).await.unwrap());
        let asked = v1::JoinRequest { token: token.into(), node: name.into(), csr_pem };
        let reply = stranger.join(asked).await?.into_inner();
        Ok((reply.certificate_pem, key))
    }
}

#[tokio::test]
async fn node_joins_once_with_its_token_and_works_under_its_own_name_only() {
    let door = Door::open().await;
    let token = door.token("node", "n1").await;
    let (certificate, key) = door.join(&token, "n1").await.unwrap();
    assert_eq!(door.join(&token, "n1").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(door.join("slipway-nonsense", "n2").await.unwrap_err().code(), Code::PermissionDenied);

    let channel = connect(door.address, &door.ca_pem, Some((&certificate, &key))).await.unwrap();
    let first = v1::FromRunner { message: Some(v1::from_runner::Message::Hello(hello("n2", 1, vec![]))) };
    let refused = RunnerClient::new(channel.clone()).session(tokio_stream::iter([first])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let list = v1::ListRequest::default();
    let refused = ControlClient::new(channel.clone()).list_pipelines(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    let repo = Repo::with("a: {image: alpine, script: [echo]}\n");
    door.site.submit(&repo).await;
    let mut node = Node::connect_over(RunnerClient::new(channel.clone()), hello("n1", 1, vec![])).await;
    node.pass().await;

    let (csr_pem, new_key) = request("n1");
    let renewed = RunnerClient::new(channel).renew(v1::RenewRequest { csr_pem }).await.unwrap().into_inner();
    let again = connect(door.address, &door.ca_pem, Some((&renewed.certificate_pem, &new_key))).await.unwrap();
    Node::connect_over(RunnerClient::new(again), hello("n1", 1, vec![])).await;
    door.site.scheduler.shutdown().await;
}

#[tokio::test]
async fn stranger_and_revoked_are_refused() {
    let door = Door::open().await;
    let bare = connect(door.address, &door.ca_pem, None).await.unwrap();
    let refused = ControlClient::new(bare.clone()).get_pipeline(v1::IdRequest { id: 1 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let first = v1::FromRunner { message: Some(v1::from_runner::Message::Hello(hello("n1", 1, vec![]))) };
    let refused = RunnerClient::new(bare).session(tokio_stream::iter([first])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    // A certificate of somebody else's making does not get through the handshake.
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["n1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let foreign = connect(door.address, &door.ca_pem, Some((&own.pem(), &key.serialize_pem()))).await;
    let refused = match foreign {
        Err(_) => true,
        Ok(channel) => ControlClient::new(channel).get_pipeline(v1::IdRequest { id: 1 }).await.is_err(),
    };
    assert!(refused);

    let token = door.token("developer", "ada").await;
    let (certificate, key) = door.join(&token, "ada").await.unwrap();
    let channel = connect(door.address, &door.ca_pem, Some((&certificate, &key))).await.unwrap();
    let mut ada = ControlClient::new(channel);
    assert_eq!(ada.get_pipeline(v1::IdRequest { id: 1 }).await.unwrap_err().code(), Code::NotFound);
    let asked = v1::CreateTokenRequest { role: "admin".into(), name: "ada".into(), valid_seconds: 60 };
    assert_eq!(ada.create_token(asked).await.unwrap_err().code(), Code::PermissionDenied);
    door.site.control().revoke(v1::RevokeRequest { name: "ada".into() }).await.unwrap();
    let refused = soon("a refusal", ada.get_pipeline(v1::IdRequest { id: 1 })).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    door.site.scheduler.shutdown().await;
}
