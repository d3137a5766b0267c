//! Settings of the export of traces, and the check of what they name.

use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue, Uri};

/// Maximum length of the file with header fields, in bytes.
const HEADERS_FILE_LEN_MAX: u64 = 16 * 1_024;

/// The protocol of the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP, with bodies in protobuf.
    Http,
}

/// Settings of the export of traces over OTLP.
#[derive(Clone, Debug, Default)]
pub struct OtlpSettings {
    /// The receiver's URL. If it is empty, no traces are exported.
    pub endpoint: String,
    /// The receiver's protocol.
    pub protocol: OtlpProtocol,
    /// A file with header fields for the receiver, one `NAME: VALUE` per line. It is read before each delivery.
    pub headers_file: Option<PathBuf>,
    /// A file with the authorities that signed the receiver's certificate; `None` for those of the machine.
    pub ca_file: Option<PathBuf>,
    /// The share of new traces that are exported, from 0 to 1.
    pub sample_ratio: f64,
    /// Requests that take at least this long are always exported, in microseconds; 0 for no such rule. Those that wait
    /// for a change do not count as slow.
    pub slow_us: u64,
    /// Time limit of one delivery, in milliseconds.
    pub timeout_ms: u64,
    /// Maximum number of requests that wait for their export.
    pub queue_max: usize,
    /// Attributes of this node, in addition to those that Maxine sets.
    pub attributes: Vec<(String, String)>,
}

impl OtlpSettings {
    /// Checks everything that the settings name. Returns what is wrong, each with the name of the setting. Blocks.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        if self.endpoint.is_empty() {
            return Vec::new();
        }
        let endpoint = check_endpoint(&self.endpoint)
            .err()
            .map(|why| format!("telemetry.otlp_endpoint: {why}"));
        let headers = self.headers_file.as_ref().and_then(|path| {
            let why = maxine_files::read(path)
                .map_err(|error| error.to_string())
                .and_then(|text| header_fields(&text))
                .err()?;
            Some(format!("telemetry.otlp_headers_file: {}: {why}", path.display()))
        });
        let authorities = self.ca_file.as_ref().and_then(|path| {
            let why = read_authorities(path).err()?;
            Some(format!("telemetry.otlp_ca: {}: {why}", path.display()))
        });
        endpoint.into_iter().chain(headers).chain(authorities).collect()
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let url: Uri = endpoint.parse().map_err(|_| "expected a URL of http or https".to_owned())?;
    let has_scheme = matches!(url.scheme_str(), Some("http" | "https"));
    let authority = url.authority().filter(|authority| !authority.host().is_empty());
    let (true, Some(authority)) = (has_scheme, authority) else {
        return Err("expected a URL of http or https".into());
    };
    match authority.as_str().contains('@') {
        true => Err("a user or a password belongs into telemetry.otlp_headers_file".into()),
        false => Ok(()),
    }
}

/// Reads header fields, one `NAME: VALUE` per line. Empty lines and lines that begin with `#` are left out. An error
/// names the line and never shows its content, which may be a secret.
pub(super) fn header_fields(text: &[u8]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    if text.len() as u64 > HEADERS_FILE_LEN_MAX {
        return Err(format!("longer than {HEADERS_FILE_LEN_MAX} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
    let mut fields = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let field = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name.trim()).ok()?, value))
        });
        fields.push(field.ok_or_else(|| format!("line {number} is not NAME: VALUE"))?);
    }
    Ok(fields)
}

/// Reads certificates in PEM. Returns the text and the certificates. Blocks.
pub(crate) fn read_authorities(
    path: &Path,
) -> Result<(Vec<u8>, Vec<reqwest::Certificate>), String> {
    let pem = maxine_files::read_bundle(path).map_err(|error| error.to_string())?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
    match certificates.is_empty() {
        true => Err("it holds no certificate in PEM".into()),
        false => Ok((pem, certificates)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_are_read_and_a_bad_line_is_named_without_its_content() {
        let fields = header_fields(b"# a token\nAuthorization: Bearer a:b\n\n x-scope : team-7 \n");
        let fields = fields.unwrap();
        let texts: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(texts, [("authorization", "Bearer a:b"), ("x-scope", "team-7")]);
        assert!(fields.iter().all(|(_, value)| value.is_sensitive()));
        for bad in ["Bearer hunter2", "a b: hunter2", ": hunter2"] {
            let why = header_fields(format!("x: y\n{bad}").as_bytes()).unwrap_err();
            assert_eq!(why, "line 2 is not NAME: VALUE");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_without_a_password() {
        for good in ["http://127.0.0.1:4317", "https://[::1]:4318/otlp", "http://collector"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in ["", "127.0.0.1:4317", "ftp://h", "/v1/traces", "http://"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
        let why = check_endpoint("http://me:hunter2@h:4317").unwrap_err();
        assert!(why.contains("otlp_headers_file") && !why.contains("hunter2"), "{why}");
    }
}
