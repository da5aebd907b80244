//! TLS as the settings say it.

use super::settings::{Name, Settings};
use crate::net::tls::{Acceptor, Certificates, Choices, Connector};

/// TLS as it is in force.
#[derive(Default)]
pub struct Tls {
    /// Begins it on connections that are accepted; `None` when no port speaks it.
    pub acceptor: Option<Acceptor>,
    /// Begins it on connections to nodes; `None` when those do not speak it.
    pub connector: Option<Connector>,
}

impl Tls {
    /// As the settings say it. The error says what is wrong with which file.
    pub fn of(settings: &Settings) -> Result<Tls, String> {
        Ok(Tls { acceptor: acceptor(settings)?, connector: connector(settings)? })
    }
}

fn acceptor(settings: &Settings) -> Result<Option<Acceptor>, String> {
    if settings.number(Name::tls_port) == 0 {
        return Ok(None);
    }
    Acceptor::new(&choices(settings)).map(Some)
}

fn connector(settings: &Settings) -> Result<Option<Connector>, String> {
    if !settings.is_on(Name::tls_cluster) {
        return Ok(None);
    }
    Connector::new(&choices(settings)).map(Some)
}

fn choices(settings: &Settings) -> Choices<'_> {
    Choices {
        certificate: settings.text(Name::tls_cert_file),
        key: settings.text(Name::tls_key_file),
        authority: settings.text(Name::tls_ca_cert_file),
        clients: match settings.text(Name::tls_auth_clients) {
            "no" => Certificates::Unasked,
            "optional" => Certificates::Optional,
            _ => Certificates::Required,
        },
        protocols: settings.text(Name::tls_protocols),
    }
}

/// Whether a setting is among those that [`Tls::of`] reads.
pub fn concerns(setting: &str) -> bool {
    setting.starts_with("tls-")
}
