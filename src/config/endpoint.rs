//! Where dialled participants are.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use tonic::codegen::http::uri::{Authority, PathAndQuery, Uri};

use super::units::{Text, from_text, serde_as_text};

/// The address of a dialled participant: `http://host:port`. The host is kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// A host that an enlistment may name: `host`, with any port, or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
}

/// A text that is not an endpoint or a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be {0}")]
pub struct ParseEndpointError(&'static str);

impl Endpoint {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl AllowedHost {
    pub fn allows(&self, endpoint: &Endpoint) -> bool {
        self.host == endpoint.host && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl Text for Endpoint {
    const EXPECTED: &'static str = "an address such as http://stock.internal:7000";
}

impl Text for AllowedHost {
    const EXPECTED: &'static str = "a host or host:port, such as stock.internal:7000";
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Endpoint, ParseEndpointError> {
        let parse = || {
            let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"))?;
            let bare = uri.path_and_query().is_none_or(|path| path == &PathAndQuery::from_static("/"));
            let (host, port) = host_and_port(uri.authority()?)?;
            bare.then_some(Endpoint { host, port: port? })
        };
        parse().ok_or(ParseEndpointError(Self::EXPECTED))
    }
}

impl FromStr for AllowedHost {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<AllowedHost, ParseEndpointError> {
        let parse = || host_and_port(&text.parse().ok()?);
        let (host, port) = parse().ok_or(ParseEndpointError(Self::EXPECTED))?;
        Ok(AllowedHost { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

serde_as_text!(Endpoint, AllowedHost);

/// The parts of an authority that has no user and no broken port.
fn host_and_port(authority: &Authority) -> Option<(String, Option<u16>)> {
    let host = authority.host().to_ascii_lowercase();
    let port = authority.port_u16();
    let rebuilt = port.map_or(host.clone(), |port| format!("{host}:{port}"));
    (!host.is_empty() && rebuilt.eq_ignore_ascii_case(authority.as_str())).then_some((host, port))
}
