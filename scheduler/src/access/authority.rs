//! The key that signs.

use super::{AccessError, Caller, Issued, Refused, ServerIdentity, VALIDITY};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// How long the authority itself holds.
const AUTHORITY_VALIDITY: SignedDuration = SignedDuration::from_hours(20 * 365 * 24);

/// How long a server's certificate holds; it is made anew at each start.
const SERVER_VALIDITY: SignedDuration = SignedDuration::from_hours(2 * 365 * 24);

/// Clocks of nodes may be behind by this much.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// The largest request that is looked at, in bytes; a P-256 request has about 500.
const CSR_MAX_BYTES: usize = 16 << 10;

/// The key that signs, and its certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// Opens `ca.pem` and `ca.key` in `folder`, or makes them.
    ///
    /// # Errors
    /// When they cannot be read or written, or only one of them is there.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Authority, AccessError> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file("make", folder))?;
        if !key.exists() && !certificate.exists() {
            let pair = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = named("Slipway scheduler's authority", None);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            valid(&mut params, now, AUTHORITY_VALIDITY);
            let made = params.self_signed(&pair)?;
            // The certificate last: with it, both are there.
            write_private(&key, &pair.serialize_pem())?;
            write_private(&certificate, &made.pem())?;
        }
        let key_pem = fs::read_to_string(&key).map_err(file("read", &key))?;
        let ca_pem = fs::read_to_string(&certificate).map_err(file("read", &certificate))?;
        let content = |path: &Path, e: rcgen::Error| AccessError::Content { path: path.to_owned(), why: e.to_string() };
        let pair = KeyPair::from_pem(&key_pem).map_err(|e| content(&key, e))?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, pair).map_err(|e| content(&certificate, e))?;
        Ok(Authority { issuer, ca_pem })
    }

    /// The authority's certificate as the second half of a token.
    pub(super) fn as_base64url(&self) -> String {
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.ca_pem.as_bytes()).expect("`open` has read it");
        URL_SAFE_NO_PAD.encode(pem.contents)
    }

    pub(super) fn server(&self, names: &[String], now: Timestamp) -> Result<ServerIdentity, AccessError> {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = named("Slipway scheduler", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(random_serial());
        valid(&mut params, now, SERVER_VALIDITY);
        let certificate = params.signed_by(&pair, &self.issuer)?;
        Ok(ServerIdentity {
            certificate_pem: certificate.pem(),
            key_pem: pair.serialize_pem(),
            ca_pem: self.ca_pem.clone(),
        })
    }

    /// Signs the key of a request; everything else in the certificate is ours. Gives the serial number in hex, too.
    pub(super) fn issue(&self, caller: &Caller, csr_pem: &str, now: Timestamp) -> Result<(Issued, String), Refused> {
        if csr_pem.len() > CSR_MAX_BYTES {
            return Err(Refused::Request(format!("it has {} bytes, more than {CSR_MAX_BYTES}", csr_pem.len())));
        }
        let mut request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| Refused::Request(e.to_string()))?;
        let serial = random_serial();
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&caller.name, Some(caller.role.as_str()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial.clone());
        valid(&mut params, now, VALIDITY);
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(|e| Refused::Request(e.to_string()))?;
        Ok((Issued { certificate_pem: certificate.pem(), ca_pem: self.ca_pem.clone() }, hex(&serial.to_bytes())))
    }
}

/// The serial number of a certificate, in hex.
pub(super) fn serial_of(certificate_der: &[u8]) -> Result<String, Refused> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(certificate_der).map_err(|e| Refused::Certificate(e.to_string()))?;
    Ok(hex(certificate.raw_serial()))
}

fn named(common: &str, unit: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    name
}

fn valid(params: &mut CertificateParams, now: Timestamp, validity: SignedDuration) {
    let at = |t: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(u64::try_from(t.as_second()).unwrap_or(0))
    };
    params.not_before = at(now - CLOCK_SKEW);
    params.not_after = at(now + validity);
}

fn random_serial() -> SerialNumber {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    // Positive and without leading zeros, so that DER writes it as it is and the hex of both sides agree.
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn file<'a>(what: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> AccessError + 'a {
    move |source| AccessError::File { what, path: path.to_owned(), source }
}

/// Writes a file that only we may read, and replaces the old one whole.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), AccessError> {
    let new = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(file("write", path))
}
