//! Signatures by the scheme of Standard Webhooks: `v1,` and HMAC-SHA256 over `id.timestamp.body` in base64.
//!
//! It must never know where a message goes. The invariant: the key itself is not kept, only two hash states made of it,
//! and nothing shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::fmt;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// The block of SHA-256 in bytes.
const BLOCK: usize = 64;

/// The key that messages are signed with.
#[derive(Clone)]
pub struct SigningKey {
    inner: Sha256,
    outer: Sha256,
}

/// Text that is not a signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the webhook secret is not usable: write whsec_ followed by 24 to 64 random bytes in base64")]
pub struct InvalidSecret;

impl SigningKey {
    /// The key in a secret: `whsec_`, then 24 to 64 bytes in base64.
    ///
    /// ```
    /// use outlive_server::webhook::SigningKey;
    ///
    /// assert!(SigningKey::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").is_ok());
    /// assert!(SigningKey::parse("hunter2").is_err());
    /// ```
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(secret: &str) -> Result<Self, InvalidSecret> {
        let encoded = secret.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        if (24..=64).contains(&bytes.len()) { Ok(Self::new(&bytes)) } else { Err(InvalidSecret) }
    }

    /// RFC 2104: a key that is longer than a block is hashed, and both pads are one block.
    fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        if key.len() > BLOCK {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let begun = |pad: u8| Sha256::new().chain_update(block.map(|byte| byte ^ pad));
        Self { inner: begun(0x36), outer: begun(0x5c) }
    }

    /// The header `webhook-signature` of a message; `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let begin = format!("{id}.{timestamp}.");
        format!("v1,{}", STANDARD.encode(self.mac(&[begin.as_bytes(), body.as_bytes()])))
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let inner = parts.iter().fold(self.inner.clone(), |hash, part| hash.chain_update(part));
        self.outer.clone().chain_update(inner.finalize()).finalize().into()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(key: &[u8], data: &[u8]) -> String {
        SigningKey::new(key).mac(&[data]).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 4231, test cases 1, 2, 3, 4, 6 and 7.
    #[test]
    fn codes_are_those_of_the_standard() {
        let counted: Vec<u8> = (1..=25).collect();
        let long_data = b"This is a test using a larger than block-size key and a larger than block-size data. \
            The key needs to be hashed before being used by the HMAC algorithm.";
        let cases: [(&[u8], &[u8], &str); 6] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (&counted, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (&[0xaa; 131], long_data, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
        ];
        for (key, data, expected) in cases {
            assert_eq!(mac(key, data), expected);
        }
    }

    /// The example that Standard Webhooks' own libraries test themselves with.
    #[test]
    fn a_signature_is_the_one_receivers_compute() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_showing_it() {
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_no base64 at all"] {
            let error = SigningKey::parse(text).expect_err(text);
            assert!(text.is_empty() || !error.to_string().contains(&text[6.min(text.len())..]) || text == "whsec_");
        }
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        assert_eq!(format!("{key:?}"), "SigningKey([redacted])");
    }
}
