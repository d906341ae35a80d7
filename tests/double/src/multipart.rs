//! The body of an upload, strictly: one part, named `file`, with a file name.

/// The one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its file name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(content_type: &str, body: &[u8]) -> Result<File, String> {
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .ok_or_else(|| format!("content type {content_type:?} is not multipart/form-data with a boundary"))?;
    let open = format!("--{boundary}\r\n");
    let close = format!("\r\n--{boundary}--\r\n");
    let rest = body.strip_prefix(open.as_bytes()).ok_or("the body does not begin with its boundary")?;
    let rest = rest.strip_suffix(close.as_bytes()).ok_or("the body does not end with its boundary")?;
    let blank = rest.windows(4).position(|w| w == b"\r\n\r\n").ok_or("the part has no end of headers")?;
    let (headers, bytes) = (&rest[..blank], &rest[blank + 4..]);
    let between = format!("\r\n--{boundary}");
    if bytes.windows(between.len()).any(|w| w == between.as_bytes()) {
        return Err("there is more than one part".into());
    }
    let headers = std::str::from_utf8(headers).map_err(|e| format!("headers of the part: {e}"))?;
    let disposition = headers
        .lines()
        .find_map(|l| l.strip_prefix("Content-Disposition: form-data; "))
        .ok_or("the part has no disposition")?;
    let field = |name: &str| {
        disposition.split("; ").find_map(|f| f.strip_prefix(&format!("{name}=\"")).and_then(|f| f.strip_suffix('"')))
    };
    if field("name") != Some("file") {
        return Err(format!("the part is not named `file`: {disposition}"));
    }
    let name = field("filename").filter(|n| !n.is_empty()).ok_or("the part has no file name")?;
    Ok(File { name: name.to_string(), bytes: bytes.to_vec() })
}
