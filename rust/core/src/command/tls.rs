//! TLS as the settings say it.

use super::settings::{Name, Settings};
use crate::net::tls::{Acceptor, Certificates, Choices};

/// What begins TLS on connections; `None` when no port speaks it. The error says what is wrong with which file.
pub fn acceptor(settings: &Settings) -> Result<Option<Acceptor>, String> {
    if settings.number(Name::tls_port) == 0 {
        return Ok(None);
    }
    let clients = match settings.text(Name::tls_auth_clients) {
        "no" => Certificates::Unasked,
        "optional" => Certificates::Optional,
        _ => Certificates::Required,
    };
    let choices = Choices {
        certificate: settings.text(Name::tls_cert_file),
        key: settings.text(Name::tls_key_file),
        authority: settings.text(Name::tls_ca_cert_file),
        clients,
        protocols: settings.text(Name::tls_protocols),
    };
    Acceptor::new(&choices).map(Some)
}

/// Whether a setting is among those that [`acceptor`] reads.
pub fn concerns(setting: &str) -> bool {
    setting.starts_with("tls-")
}
