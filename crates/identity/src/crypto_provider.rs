//! Selects the cryptography provider for all TLS connections of this process.

/// Makes `ring` the provider of the process. It may be called more than once.
pub fn install_crypto_provider() {
    // An error means that a provider is already installed, which is fine.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}
