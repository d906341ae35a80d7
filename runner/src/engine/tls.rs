//! Keys of one engine, made for it and gone with it: an authority, the daemon's certificate, the job's certificate.

use super::error::EngineError;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::net::{IpAddr, Ipv4Addr};

/// PEM texts.
pub(super) struct Keys {
    /// The authority that signed both.
    pub(super) ca: String,
    /// Certificate and key of the daemon.
    pub(super) server: (String, String),
    /// Certificate and key of the job.
    pub(super) client: (String, String),
}

/// Makes them for a daemon that is reached by `names` and at `address`.
pub(super) fn make(names: &[String], address: Ipv4Addr) -> Result<Keys, EngineError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params("Slipway engine authority", &[])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::from_params(&ca, &ca_key);

    // A name that cannot stand in a certificate can be no host's name either.
    let usable: Vec<String> =
        names.iter().filter(|n| rcgen::string::Ia5String::try_from(n.as_str()).is_ok()).cloned().collect();
    let mut server = params("engine", &usable)?;
    for ip in [IpAddr::V4(address), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
        server.subject_alt_names.push(SanType::IpAddress(ip));
    }
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut client = params("job", &[])?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let sign = |params: CertificateParams| -> Result<(String, String), EngineError> {
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    Ok(Keys { ca: ca_pem, server: sign(server)?, client: sign(client)? })
}

fn params(name: &str, dns: &[String]) -> Result<CertificateParams, EngineError> {
    let mut params = CertificateParams::new(dns)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_what_the_job_calls_and_hostile_aliases_are_left_out() {
        let names = ["docker".to_owned(), "my.alias".into(), "nö".into()];
        let keys = make(&names, Ipv4Addr::new(10, 1, 2, 3)).unwrap();
        for pem in [&keys.ca, &keys.server.0, &keys.client.0] {
            assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
        }
        assert!(keys.client.1.contains("PRIVATE KEY"));
        assert_ne!(keys.server.1, keys.client.1);
    }
}
