//! Whether a key signed a message, by `ring`, which TLS brings along.
//!
//! It must never know what the message says. The invariant: a key of another kind than the algorithm's signed nothing.

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature as public;

/// How a signature is checked.
enum Check {
    Shared(hmac::Algorithm),
    Rsa(&'static public::RsaParameters),
    Curve(&'static dyn public::VerificationAlgorithm),
}

/// Whether the key has signed the message under this algorithm.
pub(super) fn is_signed(algorithm: Algorithm, key: &DecodingKey, message: &[u8], signature: &[u8]) -> bool {
    if key.family() != algorithm.family() {
        return false;
    }
    let checked = match (check(algorithm), key.kind()) {
        (Some(Check::Shared(kind)), DecodingKeyKind::SecretOrDer(secret)) => {
            hmac::verify(&hmac::Key::new(kind, secret), message, signature)
        }
        (Some(Check::Rsa(kind)), DecodingKeyKind::SecretOrDer(key)) => {
            public::UnparsedPublicKey::new(kind, key).verify(message, signature)
        }
        (Some(Check::Rsa(kind)), DecodingKeyKind::RsaModulusExponent { n, e }) => {
            let key = public::RsaPublicKeyComponents { n: without_zeros(n), e: without_zeros(e) };
            key.verify(kind, message, signature)
        }
        (Some(Check::Curve(kind)), DecodingKeyKind::SecretOrDer(key)) => {
            public::UnparsedPublicKey::new(kind, key).verify(message, signature)
        }
        (Some(Check::Shared(_) | Check::Curve(_)), DecodingKeyKind::RsaModulusExponent { .. }) | (None, _) => {
            return false;
        }
    };
    checked.is_ok()
}

fn check(algorithm: Algorithm) -> Option<Check> {
    Some(match algorithm {
        Algorithm::HS256 => Check::Shared(hmac::HMAC_SHA256),
        Algorithm::HS384 => Check::Shared(hmac::HMAC_SHA384),
        Algorithm::HS512 => Check::Shared(hmac::HMAC_SHA512),
        Algorithm::RS256 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Check::Rsa(&public::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Check::Rsa(&public::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Check::Curve(&public::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Check::Curve(&public::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Check::Curve(&public::ED25519),
        _ => return None,
    })
}

/// A number without the zeros that some writers of keys put before it.
fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}
