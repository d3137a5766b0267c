//! The one choice of cryptography for every TLS connection of this process.

/// Makes `ring` the process's provider. May be called more than once.
pub fn install_crypto_provider() {
    // An error says that it was installed already, which is as good.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}
