//! Tokens.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outlive_server::auth::jwt::{JWKS_BYTES_MAX, JwksFile, JwtConfigError, JwtKey, JwtVerifier};
use ring::hmac;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-for-tests-of-32-bytes-or-more";

const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAu15wKec53+DDARKQmoYT
ixSv4wg38cs2ZkVN2BEEYWUZ7r5UTnUtjvoxSvjr83B178n3GqSM8UbfBoke4PNR
YHS/O7X71bEdhfpFwvsC8gX4n8FeneYEuDRmZLHZVxp+09nH2aE+BYFEGVP7TTA3
OgcqgDNvtCKKfI4+wQCI+Ng5R35PDJzE0Lr96pAm+vuBStJGA4Dw5juLEnUse3o9
jMx2nKEnHoeGtFjDYG6ZGPq3qyXbhkGstEvXnz0wEGMnQUBvfKlUwFOKmy5b8QEF
ODcND//qvDvI1xlvqZ8CMueuoXakRrfPuq+KI5/hkJ50h3FgBHTXUtquw0lr4vaj
0QIDAQAB
-----END PUBLIC KEY-----
";
const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEyZCVmyNiyX1cyXDgaUZ0QfhSM+X8
nc81P/ooutxjIQccP/w2lSiXA6Q2x7a0h8tKQ65RHrhdevfOQTWuQ6g9Ig==
-----END PUBLIC KEY-----
";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAHiZZs80WzC2CzNFSUrNltvB1c6VVr7vb1AyeS027V7g=
-----END PUBLIC KEY-----
";
/// `{"sub":"u-1","scopes":["workflows:read"],"exp":4102444800}`, signed with keys that were thrown away.
const RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1LTEiLCJzY29wZXMiOlsid29ya2Zsb3dzOnJlYWQiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.qSZ0oBrwLm-cEMIH_IwNXCK8b_uzhmCVCM2Y97QzFpWZTciMeR9w5NFWSxUusX6JNvzLTqLkBkJrjHXyGbnmkFT5XtSUk3hM58WYmVk_3Bw6mxyKbzCNPRKLQ1VD_p88PTpyYj3voKCSrbygAXVrBkJ-FvRa1Whk6GM8m5AtgrAfLiv15PS1Ga8nPXW_aAuUb0K18Bc9O5odp0jKdof8eXrRno0cVDaTFRzyvgQbWy6i2XyR94N1jc0CLNmji2xZte_iAdOshQjp2K9IHyxRVRq0qX56FLx6_-OijtSd1HuLQ7vp9xKaUGfbxF-5N7pkqUhgE9BBVYzCh4inUAvoUQ";
const ES256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1LTEiLCJzY29wZXMiOlsid29ya2Zsb3dzOnJlYWQiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.EBZD_LU1oXKOWHACn5VlWIzDd6Cm-17KJhFwy8TuzOVRRfeof02bD28iTp9sEU78tc-XQ_2Dzi6O9I_XEeTp6Q";
const EDDSA: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1LTEiLCJzY29wZXMiOlsid29ya2Zsb3dzOnJlYWQiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.epAaI-d3U_xVX0N6liFBbKxg3GY3a8ZEwwISv3h1bx1lmRZk8wfO9k5b9dlF8nGF-QdLdfj0SZ87rqxo8IO8AQ";

/// Keys and signatures of the other algorithms, over the same claims, made by another implementation.
const RSA_PUBLIC_2: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyhP9xAxOQ+Rjm/fuS2+p
oJ8EgnfmHf56gE0snMHMXOInO6OfBSkkfga6krq/3Q3xJhA8KtoGEpJbpbT/SJW0
R7Z9+IMKGgx/FDJNWfA1kzsYFcta0qKXahL+9JmYqRTaZ9/gBEE7mcQbhfiPXmlb
eUnTSP2hMZ4Q+gMg6lYIHca97x67ooGrPWAYnJW+WeKhqTf2lYFq+gTmVQ0mnDuP
pGHgq8cJpDAsZqeq5seRrLfpRd8k8fC/ZYMn1unhvEMI0ujlhOsgsR6oxch/w1A/
uhWJo1Kx6v4sltNrkXr7t3uDOlafByL2KJsWFY1eMone7EJD6l6DTnuyOp3U09mX
WQIDAQAB
-----END PUBLIC KEY-----
";
const EC_PUBLIC_384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEmQXl5V1Nt80tyyE1an+yDEKfvLJ2yNTb
HviwSGAwcJ4vMrg1Emv0KCaK3P/++Nex/ALOkeAG8PCg1mUbd7FKdpE+hzYAKuBi
rFmB55gH3OpnJE5HZjg7rDRKVekllurR
-----END PUBLIC KEY-----
";
/// Of 1024 bits.
const RSA_PUBLIC_SHORT: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCyBZvyAinbxbPlQAPxxGkjsABl
uOpEHIDOFBt9TijCZp6fSQUjpxDhoIlzlrpE3y18Xm8v4wnihCt5D4RY6b1n0e5D
P+OHxf1H9kftst/DP/eDUDG5DGl7k47gwQGoshBBskeysZzXBAW2UH8NrNuCrfQM
nJAAaK7b7rOFpI4WzQIDAQAB
-----END PUBLIC KEY-----
";
const SIGNATURES: [(&str, &str, &str); 8] = [
    ("HS384", SECRET, "PIesrrQlc2gUeeitiXFuFzIuZo1O8rsPrmVk9K8QnO-INVCtElQN80s0jlT6lFba"),
    ("HS512", SECRET, "7pBb8NIHDf6jH89btEK-EKDqiPgTXkFuN1s6TmqkVMf8sH_symW6rnL-y4qVeqd4xTVhlRkpIxogtXzcT_ssVw"),
    (
        "RS384",
        RSA_PUBLIC_2,
        "aimZ7Hv4A7MpZ4NRW-x2cIM0d-E23vOZEuN5tBovHVOYxyNqlO7Z9V4OAgDZGXzUY2ilvOLjU6y0zkum6RZmNvhAlFQrYUvfnC3gxvr980dwUG2f75AwwxutIvij9X2a_OWT1eN09wLk2jtvEYEkstltDIszwtV5C_s1m2s4b9zkA6kdjLh9ugSHDuIPoiSnQavjrb_PvJaWfGry11pXPjZXUPz7-xJOUKTJSo5e1ktzctMK0X46m7rgLm-56L0p0yNmfcDrjKGNIEi1yxbTA2lQ8qwx1JcFDVRKGSsa8NSooMkjfN1MnCU1dd9rYYit87Lsg6ZDkhemkA24aK-D4g",
    ),
    (
        "RS512",
        RSA_PUBLIC_2,
        "GeybSjK4S_Rf4LB-P-L7P3FSnskIzUzthn-_ZkAMtZQ6_x2sXYiK6i6eFF4_Ngbrn3OmLjdJeyZ2AGuujORQ25MvZC_UP4u7LvFgdkbtuCzUcOjsWRzmyO7gnC8lV95-208eQBt5gTtKKCtOLEi2YtoxO2H7ulsU3IZHbDcYC0w7TvOIj_DutcdZto5zSVsmSvUhRHEIv0hraWRMIRPk_N3Zu0u8NBLxFK_mq470Uinz_U4LsdYbNz0aHWSpWe6B8oosRl0WrkEbG1N2hm_cHO5WOVBvxBgaCcfVsWWZ9ukjLLihiK36r24u3g7Ezba1Jo41yB1L6c_QZSrvlZQcdw",
    ),
    (
        "PS256",
        RSA_PUBLIC_2,
        "ZuX_waN2Ygpgw7Qid-rNNuAbhjI1YV1lrmKRxSWu5vMOyhr7jC3V7taMTznqoJ6gL9TJwKqPo66lWdpJbhS-hmkYtHQa7L58FYX_aKLT7l7BiEuhs0Mkz3z_eeAtxSI79mCBrJCTEgTXG8pUpsVwflxKsyKqiCclwGk73m-7jzrAnCEy_e9VbVugTJjoBqhHRmQwda-X_I_Ck9PDAwGmVO91tChzQoblGPl_07BQD2E-watKEsPiFIB8D7mrMedbVM-D5tL9RqPCTYatuD6BD5v4lLrqL4Ei1hK46lFS1an7yR0Ea0EssSX3qcbI8HkqM6XuBEv6rSX71wyamPcmRA",
    ),
    (
        "PS384",
        RSA_PUBLIC_2,
        "AoaABWiQQO6UkIVPX2mvvYjL2-T0_ddryqmTxuELUz65Z3cEiLsoh-cSqePTAi8GDPL40XnYtPnIrlF7K1KeiBPzLXLPwBVvLkA70xqByvtPMQZfwahLSB1XkYT3m_4Fsl5zQti7ZuswlaShpwzVbkc5XOdlgPycic4k7zapCIDKGK3rAKQIDlez4YpuTsh--RtKWBrgus7xySE3cyBRXMkvxgCS-AJDOsAB0VJIv8uxauatUNijzVTpv175bxYp09Kbt5ZznTsYD-H-05thFNaRm_VXelwkc1gk7cUJ3KCsEClYPxO_yh3beU1NFgXk4KpJQYSLTImfAsSUiccPCw",
    ),
    (
        "PS512",
        RSA_PUBLIC_2,
        "JwL4o4pd2x0Cb0tG-xyMIobxzCAGbHFw9kz9D5EKHNbGYuTpcvHr2D33SOeKA_s0nPvcR2PT0eVWo5DDHvP7IoC5hiQi5rK4WpvGNZRb7TgQ1tiPyT9sqv99T4XNnGzBnWyk6taY5MpVu781Zp0IC7fO6yTMhe0YUt7LHkBDKlXrL3N_7Rb5pJgpgwmeNetuTDt-wCUIhJBWs0sUYVSINka6VypPLkIsxnqNwz4ZjbZJGA-hlKxqeAyH30_N5iA_l-mvB5uMFFtJYlRl7siqdrUq2vpuwmH01HxndAQ1uEac7HdkB7E-OKVYHwZviw8Pc7Sd0SImmrHIke9WX8Xbmg",
    ),
    (
        "ES384",
        EC_PUBLIC_384,
        "lIRd61hP86XQ48M61-v-JpYzzGkuPAyd0rGoP7lEOlpVUF6Pf7JilXMM0whiBgNIjxJ31ROHpTRQljO7UKvKjTCsEXBS6TezQJfUfNIrveuczZ3bgGVgHzUluNfZa8pT",
    ),
];

/// Each algorithm, its key and a good token.
fn every_algorithm() -> Vec<(&'static str, &'static str, String)> {
    let claims = json!({ "sub": "u-1", "exp": 4_102_444_800_u64 });
    let hs256 = signed(&json!({ "alg": "HS256" }), &claims, SECRET);
    let (_, claims) = RS256.rsplit_once('.').expect("three parts").0.split_once('.').expect("two parts");
    let others = SIGNATURES.map(|(algorithm, key, signature)| {
        let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\"}}"));
        (algorithm, key, format!("{header}.{claims}.{signature}"))
    });
    let first = [("RS256", RSA_PUBLIC, RS256), ("ES256", EC_PUBLIC, ES256), ("EdDSA", ED_PUBLIC, EDDSA)];
    let first = first.map(|(algorithm, key, token)| (algorithm, key, token.to_owned()));
    [("HS256", SECRET, hs256)].into_iter().chain(first).chain(others).collect()
}

/// Any header and claims, signed with HS256.
fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A good token, after `change`.
fn token(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({ "sub": "u-1", "scopes": ["workflows:read"], "exp": NOW_S + 600, "aud": "contract-os" });
    change(&mut claims);
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), &claims, SECRET)
}

fn key(algorithm: &str, text: &str) -> JwtKey {
    JwtKey::new(algorithm, &Secret::new(text)).expect("a usable key")
}

fn auth(verifier: JwtVerifier) -> Auth {
    Auth::new(TestClock::new()).jwt(verifier)
}

fn hs256() -> Auth {
    auth(JwtVerifier::new(vec![key("HS256", SECRET)]))
}

/// Why the token is refused.
async fn refusal(auth: &Auth, token: &str) -> String {
    // Each from another address, so that the limiter stays out of it.
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let peer = IpAddr::from(u32::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).expect("few").to_be_bytes());
    match auth.authenticate(token, peer).await {
        Ok(principal) => panic!("admitted: {principal:?}"),
        Err(error) => error.detail().to_owned(),
    }
}

async fn admitted(auth: &Auth, token: &str) -> Principal {
    auth.authenticate(token, address(PEER)).await.expect("admitted")
}

#[tokio::test]
async fn refusals_have_agnos_words() {
    let server = Server::new(hs256());
    let missing = server.send("GET", "/config", &[], PEER).await;
    assert_eq!(missing.detail(), "Authorization header missing");
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    let wrong = signed(&json!({ "alg": "HS256" }), &json!({ "sub": "u-1", "exp": NOW_S + 600 }), "another secret");
    let expired = token(|claims| claims["exp"] = json!(NOW_S - 60));
    let cases = [
        ("not-a-jwt", "Invalid token: Not enough segments"),
        (&wrong, "Invalid token: Signature verification failed"),
        (&expired, "Token has expired"),
    ];
    for (token, detail) in cases {
        let answer = server.get("/workflows", &format!("Bearer {token}")).await;
        assert_eq!((answer.status, answer.detail().as_str()), (StatusCode::UNAUTHORIZED, detail));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let read = format!("Bearer {}", token(|_| ()));
    assert_eq!(server.get("/workflows", &read).await.status, StatusCode::OK);
    let answer = server.get("/sessions", &read).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.detail(), "Insufficient permissions. Required scope(s): sessions:read");
    assert_eq!(server.get("/health", "Bearer not-a-jwt").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_socket_is_told_the_reason_and_its_type() {
    let error = hs256().authenticate("bad", address(PEER)).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.error_type()), ("Not enough segments", Some("invalid_token")));
    let error = security_key().authenticate("bad", address(PEER)).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.error_type()), ("Invalid token", None));
}

#[tokio::test]
async fn a_user_sees_their_own_things_unless_admin() {
    let auth = hs256();
    let user = admitted(&auth, &token(|_| ())).await;
    assert_eq!(user.access(), Access::User("u-1".into()));
    assert_eq!(user.acts_for(Some("spoofed")).expect("a user"), Some("u-1"));
    let admin = admitted(&auth, &token(|claims| claims["scopes"] = json!(["agent_os:admin"]))).await;
    assert_eq!(admin.access(), Access::All);
    assert_eq!(admin.user_id.as_deref(), Some("u-1"));
}

/// The same token after a change of its signature.
fn resigned(token: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    change(&mut signature);
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn every_algorithm_verifies_and_no_other_signature_does() {
    let all = every_algorithm();
    for (algorithm, text, token) in &all {
        let auth = auth(JwtVerifier::new(vec![key(algorithm, text)]));
        assert_eq!(admitted(&auth, token).await.user_id.as_deref(), Some("u-1"), "{algorithm}");
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let (header, claims) = message.split_once('.').expect("two parts");
        let mut raised = URL_SAFE_NO_PAD.decode(claims).expect("base64");
        raised.push(b' ');
        let mut forged = vec![
            resigned(token, |bytes| bytes[10] ^= 1),
            resigned(token, |bytes| *bytes.last_mut().expect("not empty") ^= 0x80),
            resigned(token, |bytes| bytes.truncate(bytes.len() - 1)),
            resigned(token, |bytes| bytes.push(0)),
            resigned(token, Vec::clear),
            resigned(token, |bytes| bytes.fill(0)),
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(raised)),
        ];
        // The signatures of all others, also those with the same key.
        let others = all.iter().filter(|(other, ..)| other != algorithm);
        forged
            .extend(others.map(|(.., other)| format!("{message}.{}", other.rsplit_once('.').expect("three parts").1)));
        for forged in forged {
            let why = refusal(&auth, &forged).await;
            assert_eq!(why, "Invalid token: Signature verification failed", "{algorithm}: {forged}");
        }
        assert_eq!(refusal(&auth, &format!("{message}.?")).await, "Invalid token: Invalid token encoding");
    }
}

#[tokio::test]
async fn every_algorithm_with_public_keys_verifies_from_a_key_set() {
    for (algorithm, text, token) in every_algorithm() {
        if !algorithm.starts_with("HS") {
            let set = KeySet::new(&[jwk(text, "k")]);
            let auth = set.auth(&[algorithm]);
            assert_eq!(admitted(&auth, &token).await.user_id.as_deref(), Some("u-1"), "{algorithm}");
            let forged = resigned(&token, |bytes| bytes[10] ^= 1);
            let why = refusal(&auth, &forged).await;
            assert_eq!(why, "Invalid token: Signature verification failed", "{algorithm}");
        }
    }
    // Some writers put a zero before the modulus.
    let mut padded = jwk(RSA_PUBLIC, "k");
    let modulus = URL_SAFE_NO_PAD.decode(padded["n"].as_str().expect("text")).expect("base64");
    padded["n"] = json!(URL_SAFE_NO_PAD.encode([&[0][..], &modulus].concat()));
    admitted(&KeySet::new(&[padded]).auth(&["RS256"]), RS256).await;
}

#[tokio::test]
async fn bad_b03_the_algorithm_is_fixed_by_the_settings() {
    let claims = json!({ "sub": "u-1", "scopes": ["agent_os:admin"], "exp": NOW_S + 600 });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let auth_hs = hs256();
    for alg in ["none", "None", "nOnE", ""] {
        let unsigned = format!("{}.{}.", encode(&json!({ "alg": alg })), encode(&claims));
        refusal(&auth_hs, &unsigned).await;
    }
    let auth_rs = auth(JwtVerifier::new(vec![key("RS256", RSA_PUBLIC)]));
    for secret in [RSA_PUBLIC, RSA_PUBLIC.trim_end()] {
        let confused = signed(&json!({ "alg": "HS256" }), &claims, secret);
        assert_eq!(refusal(&auth_rs, &confused).await, "Invalid token: The specified alg value is not allowed");
        let mislabelled = signed(&json!({ "alg": "RS256" }), &claims, secret);
        assert_eq!(refusal(&auth_rs, &mislabelled).await, "Invalid token: Signature verification failed");
    }
    // Also when both kinds of keys are configured, a key serves its own algorithm only.
    let both = auth(JwtVerifier::new(vec![key("RS256", RSA_PUBLIC), key("HS256", SECRET)]));
    let confused = signed(&json!({ "alg": "HS256" }), &claims, RSA_PUBLIC);
    assert_eq!(refusal(&both, &confused).await, "Invalid token: Signature verification failed");
    assert!(admitted(&both, RS256).await.user_id.is_some());
    assert!(admitted(&both, &token(|_| ())).await.user_id.is_some());
}

#[tokio::test]
async fn bad_b03_a_token_brings_no_key_and_names_only_known_ones() {
    let claims = json!({ "sub": "u-1", "exp": NOW_S + 600 });
    let auth_one = hs256();
    let brought = [
        json!({ "alg": "HS256", "jku": "http://127.0.0.1:1/keys" }),
        json!({ "alg": "HS256", "x5u": "http://127.0.0.1:1/cert" }),
        json!({ "alg": "HS256", "x5c": ["MIIB"] }),
        json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) } }),
        json!({ "alg": "HS256", "crit": ["exp"] }),
        json!({ "alg": "HS256", "jku": 7 }),
    ];
    for header in brought {
        refusal(&auth_one, &signed(&header, &claims, SECRET)).await;
    }
    let named = vec![key("HS256", SECRET).id("new"), key("HS256", "the older secret of this server").id("old")];
    let auth_named = auth(JwtVerifier::new(named));
    let with = |kid: &str, secret: &str| signed(&json!({ "alg": "HS256", "kid": kid }), &claims, secret);
    admitted(&auth_named, &with("new", SECRET)).await;
    assert_eq!(refusal(&auth_named, &with("other", SECRET)).await, "Invalid token: Unknown key id");
    assert_eq!(refusal(&auth_named, &with("old", SECRET)).await, "Invalid token: Signature verification failed");
}

#[tokio::test]
async fn bad_b04_times_are_numbers_and_the_end_is_required() {
    let auth_strict = hs256();
    let refused: [(&str, Value); 8] = [
        ("exp", Value::Null),
        ("exp", json!((NOW_S + 600).to_string())),
        ("exp", json!([])),
        ("exp", json!(-1)),
        ("exp", json!(NOW_S)),
        ("nbf", json!(NOW_S + 60)),
        ("nbf", json!("soon")),
        ("iat", json!(NOW_S + 60)),
    ];
    for (name, value) in refused {
        let text = format!("{name}={value}");
        let token = token(|claims| claims[name] = value);
        assert!(auth_strict.authenticate(&token, address("::1")).await.is_err(), "{text}");
    }
    let endless = token(|claims| drop(claims.as_object_mut().unwrap().remove("exp")));
    assert_eq!(refusal(&auth_strict, &endless).await, "Invalid token: Token is missing the \"exp\" claim");
    admitted(&auth_strict, &token(|claims| claims["exp"] = json!(NOW_S as f64 + 600.5))).await;
    let forever = admitted(&auth_strict, &token(|claims| claims["exp"] = json!(i64::MAX))).await;
    assert!(auth_strict.recheck(&forever).await.is_ok());
}

#[tokio::test]
async fn bad_b04_clocks_may_differ_by_thirty_seconds_at_most() {
    let lenient = JwtVerifier::new(vec![key("HS256", SECRET)]).leeway(Duration::from_secs(3600));
    let auth_lenient = auth(lenient);
    let late = admitted(&auth_lenient, &token(|claims| claims["exp"] = json!(NOW_S - 29))).await;
    assert!(auth_lenient.recheck(&late).await.is_ok());
    assert_eq!(refusal(&auth_lenient, &token(|claims| claims["exp"] = json!(NOW_S - 30))).await, "Token has expired");
    admitted(&auth_lenient, &token(|claims| claims["nbf"] = json!(NOW_S + 30))).await;
    refusal(&auth_lenient, &token(|claims| claims["nbf"] = json!(NOW_S + 31))).await;
}

#[tokio::test]
async fn bad_b04_audience_and_issuer_are_checked_when_set() {
    let verifier = JwtVerifier::new(vec![key("HS256", SECRET)]).audience("contract-os").issuer("us");
    let auth_both = auth(verifier);
    let with = |audience: Value, issuer: Value| {
        token(|claims| {
            claims["aud"] = audience;
            claims["iss"] = issuer;
        })
    };
    admitted(&auth_both, &with(json!("contract-os"), json!("us"))).await;
    admitted(&auth_both, &with(json!(["other", "contract-os"]), json!("us"))).await;
    for audience in [json!("other"), json!(["other"]), json!([]), Value::Null, json!("contract-os2")] {
        assert_eq!(refusal(&auth_both, &with(audience, json!("us"))).await, "Invalid token: Audience doesn't match");
    }
    for issuer in [json!("them"), json!(["us"]), Value::Null] {
        let token = with(json!("contract-os"), issuer);
        assert_eq!(refusal(&auth_both, &token).await, "Invalid token: Invalid issuer");
    }
    // Not set: not looked at, as with Agno.
    admitted(&hs256(), &with(json!("other"), json!("them"))).await;
}

#[tokio::test]
async fn bad_b05_scopes_are_a_short_list_or_a_text() {
    let auth = hs256();
    let with = |scopes: Value| token(|claims| claims["scopes"] = scopes);
    let text = admitted(&auth, &with(json!("workflows:read  config:read"))).await;
    assert_eq!(text.scopes, Scopes::parse(["workflows:read", "config:read"]));
    for refused in [Value::Null, json!(7), json!({}), json!(true), json!([1]), json!(["workflows:read", null])] {
        refusal(&auth, &with(refused)).await;
    }
    let many = |count: usize| json!((0..count).map(|number| format!("w:i{number}:r")).collect::<Vec<_>>());
    refusal(&auth, &with(many(10_000))).await;
    refusal(&auth, &with(many(257))).await;
    admitted(&auth, &with(many(256))).await;
    let none = token(|claims| drop(claims.as_object_mut().unwrap().remove("scopes")));
    assert_eq!(admitted(&auth, &none).await.scopes, Scopes::default());
    refusal(&auth, &token(|claims| claims["padding"] = json!("x".repeat(1 << 20)))).await;
}

#[tokio::test]
async fn bad_b06_a_token_names_a_user_and_no_reserved_one() {
    let auth = hs256();
    let long = "u".repeat(10 << 10);
    let refused = ["", " ", "sa:x", "__scheduler__", "u-1\n", "u\n1", "u\0", " u-1", &long];
    for subject in refused.into_iter().map(Value::from).chain([Value::Null, json!(7)]) {
        let detail = refusal(&auth, &token(|claims| claims["sub"] = subject)).await;
        assert_eq!(detail, "Invalid token: The claim sub is missing or not allowed");
    }
    let nobody = token(|claims| drop(claims.as_object_mut().unwrap().remove("sub")));
    refusal(&auth, &nobody).await;
    refusal(&auth, &token(|claims| claims["sub"] = json!(["u-1"]))).await;
    let user = admitted(&auth, &token(|claims| claims["sub"] = json!("auth0|Zoë@example.org"))).await;
    assert_eq!(user.user_id.as_deref(), Some("auth0|Zoë@example.org"));
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_told_so_however_often_it_comes() {
    let server = Server::new(hs256());
    let expired = format!("Bearer {}", token(|claims| claims["exp"] = json!(NOW_S - 60)));
    for _ in 0..30 {
        assert_eq!(server.get("/config", &expired).await.detail(), "Token has expired");
    }
    for _ in 0..20 {
        server.get("/config", "Bearer forged").await;
    }
    assert_eq!(server.get("/config", "Bearer forged").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(server.get("/config", &expired).await.detail(), "Token has expired");
}

#[test]
fn a_key_that_does_not_fit_its_algorithm_is_refused_at_the_start() {
    let refused = |algorithm: &str, text: &str| JwtKey::new(algorithm, &Secret::new(text)).err();
    let unusable = |algorithm: &str| Some(JwtConfigError::UnusableKey(algorithm.to_owned()));
    assert_eq!(refused("none", SECRET), Some(JwtConfigError::UnknownAlgorithm("none".to_owned())));
    assert_eq!(refused("HS256", ""), unusable("HS256"));
    assert_eq!(refused("HS256", RSA_PUBLIC), unusable("HS256"));
    assert_eq!(refused("RS256", SECRET), unusable("RS256"));
    assert_eq!(refused("RS256", EC_PUBLIC), unusable("RS256"));
    assert_eq!(refused("RS256", RSA_PUBLIC_SHORT), unusable("RS256"));
    assert_eq!(refused("ES256", RSA_PUBLIC), unusable("ES256"));
    assert_eq!(refused("EdDSA", EC_PUBLIC), unusable("EdDSA"));
    let message = refused("RS256", "hunter2").unwrap().to_string();
    assert!(!message.contains("hunter2"));
}

/// The public keys above as a JSON Web Key, under this id.
fn jwk(public: &str, id: &str) -> Value {
    let der: Vec<u8> = {
        let body: String = public.lines().filter(|line| !line.starts_with("-----")).collect();
        base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
    };
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match der.len() {
        // The modulus is what lies before the exponent, 02 03 01 00 01.
        294 => json!({ "kty": "RSA", "kid": id, "use": "sig", "n": encode(&der[33..289]), "e": "AQAB" }),
        91 => json!({ "kty": "EC", "kid": id, "crv": "P-256", "x": encode(&der[27..59]), "y": encode(&der[59..]) }),
        120 => json!({ "kty": "EC", "kid": id, "crv": "P-384", "x": encode(&der[24..72]), "y": encode(&der[72..]) }),
        44 => json!({ "kty": "OKP", "kid": id, "crv": "Ed25519", "alg": "EdDSA", "x": encode(&der[12..]) }),
        other => panic!("a key of {other} bytes"),
    }
}

/// The same token with a key id in its header; the signature is over what it was before, and no good.
fn renamed(token: &str, id: &str) -> String {
    let (header, rest) = token.split_once('.').expect("three parts");
    let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64")).expect("JSON");
    header["kid"] = json!(id);
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

struct KeySet(tempfile::NamedTempFile);

impl KeySet {
    fn new(keys: &[Value]) -> Self {
        let set = Self(tempfile::NamedTempFile::new().expect("a file"));
        set.write(&json!({ "keys": keys }).to_string());
        set
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.path(), text).expect("writable");
    }

    fn open(&self, algorithms: &[&str]) -> Result<JwksFile, JwtConfigError> {
        JwksFile::open(self.0.path(), algorithms.iter().copied())
    }

    fn auth(&self, algorithms: &[&str]) -> Auth {
        auth(JwtVerifier::new(Vec::new()).jwks(self.open(algorithms).expect("usable")))
    }
}

#[tokio::test]
async fn a_key_set_verifies_and_its_names_choose() {
    let set = KeySet::new(&[jwk(RSA_PUBLIC, "rsa"), jwk(EC_PUBLIC, "ec"), jwk(ED_PUBLIC, "ed")]);
    let auth_all = set.auth(&["RS256", "ES256", "EdDSA"]);
    for token in [RS256, ES256, EDDSA] {
        assert_eq!(admitted(&auth_all, token).await.user_id.as_deref(), Some("u-1"));
    }
    assert_eq!(refusal(&auth_all, &renamed(RS256, "other")).await, "Invalid token: Unknown key id");
    // The right name, but the signature is over another header; and a key of another kind.
    assert_eq!(refusal(&auth_all, &renamed(RS256, "rsa")).await, "Invalid token: Signature verification failed");
    let wrong_kind = refusal(&auth_all, &renamed(RS256, "ec")).await;
    assert_eq!(wrong_kind, "Invalid token: The specified alg value is not allowed");
    // Only what the settings name is accepted, whatever the file holds.
    let auth_rsa = set.auth(&["RS256"]);
    admitted(&auth_rsa, RS256).await;
    assert_eq!(refusal(&auth_rsa, ES256).await, "Invalid token: The specified alg value is not allowed");
    // Beside a secret of the settings.
    let secret = key("HS256", SECRET).id("ours");
    let both = auth(JwtVerifier::new(vec![secret]).jwks(set.open(&["RS256"]).expect("usable")));
    admitted(&both, RS256).await;
    let ours = signed(&json!({ "alg": "HS256", "kid": "ours" }), &json!({ "sub": "u-2", "exp": NOW_S + 600 }), SECRET);
    assert_eq!(admitted(&both, &ours).await.user_id.as_deref(), Some("u-2"));
}

#[tokio::test]
async fn b03_a_key_set_cannot_be_used_as_a_shared_secret() {
    let public = jwk(RSA_PUBLIC, "rsa");
    let set = KeySet::new(std::slice::from_ref(&public));
    let auth_rsa = set.auth(&["RS256"]);
    let claims = json!({ "sub": "u-1", "scopes": ["agent_os:admin"], "exp": NOW_S + 600 });
    let modulus = public["n"].as_str().expect("text");
    for secret in [RSA_PUBLIC, RSA_PUBLIC.trim_end(), modulus, &public.to_string()] {
        for header in [json!({ "alg": "HS256" }), json!({ "alg": "HS256", "kid": "rsa" })] {
            let confused = signed(&header, &claims, secret);
            assert_eq!(refusal(&auth_rsa, &confused).await, "Invalid token: The specified alg value is not allowed");
        }
    }
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", ""] {
        let unsigned = format!("{}.{}.", encode(&json!({ "alg": alg, "kid": "rsa" })), encode(&claims));
        refusal(&auth_rsa, &unsigned).await;
    }
    // A secret in the file is none of its keys, and no algorithm of secrets can be asked for.
    let shared = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    let with_secret = KeySet::new(&[public, shared]);
    assert!(with_secret.open(&["HS256"]).is_err());
    let auth_rsa = with_secret.auth(&["RS256"]);
    let signed_with_it = signed(&json!({ "alg": "HS256", "kid": "s" }), &claims, SECRET);
    assert_eq!(refusal(&auth_rsa, &signed_with_it).await, "Invalid token: Unknown key id");
}

#[test]
fn what_a_key_set_may_not_hold_is_passed_over_and_without_a_key_it_is_refused() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut key = jwk(RSA_PUBLIC, "rsa");
        change(&mut key);
        key
    };
    let bad = [
        with(&|key| key["use"] = json!("enc")),
        with(&|key| key["alg"] = json!("RS512")),
        with(&|key| key["alg"] = json!("RSA-OAEP")),
        with(&|key| key["n"] = json!("AQAB")),
        with(&|key| key["kty"] = json!("unheard-of")),
        jwk(EC_PUBLIC, "ec"),
        json!(7),
    ];
    for key in bad {
        let error = KeySet::new(std::slice::from_ref(&key)).open(&["RS256"]).map(|_| ()).expect_err(&key.to_string());
        assert!(matches!(error, JwtConfigError::UnusableKeySet { .. }), "{error}");
        KeySet::new(&[key, jwk(RSA_PUBLIC, "rsa")]).open(&["RS256"]).expect("the other key is good");
    }
    let set = KeySet::new(&[]);
    for text in ["", "{}", "[]", "{\"keys\":7}", "a-secret-that-is-not-repeated"] {
        set.write(text);
        let error = set.open(&["RS256"]).map(|_| ()).expect_err(text).to_string();
        assert!(error.contains("cannot be used") && !error.contains("a-secret"), "{error}");
    }
    let padding = " ".repeat(usize::try_from(JWKS_BYTES_MAX).expect("small"));
    set.write(&format!("{}{padding}", json!({ "keys": [jwk(RSA_PUBLIC, "rsa")] })));
    assert!(set.open(&["RS256"]).map(|_| ()).expect_err("too long").to_string().contains("longer"));
    assert!(JwksFile::open("/nowhere/keys.json", ["RS256"]).is_err());
    assert!(matches!(set.open(&["RS257"]), Err(JwtConfigError::UnknownAlgorithm(_))));
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_by_writing_the_file_and_a_broken_file_changes_nothing() {
    let set = KeySet::new(&[jwk(RSA_PUBLIC, "old")]);
    let auth_rotating = set.auth(&["RS256", "ES256"]);
    admitted(&auth_rotating, RS256).await;
    set.write(&json!({ "keys": [jwk(EC_PUBLIC, "new")] }).to_string());
    tokio::time::advance(Duration::from_secs(29)).await;
    // However many tokens come, it is not looked at before its time.
    assert_eq!(refusal(&auth_rotating, ES256).await, "Invalid token: The specified alg value is not allowed");
    admitted(&auth_rotating, RS256).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    admitted(&auth_rotating, ES256).await;
    refusal(&auth_rotating, RS256).await;
    for broken in ["{\"keys\": [{\"kty\"", ""] {
        set.write(broken);
        tokio::time::advance(Duration::from_secs(30)).await;
        admitted(&auth_rotating, ES256).await;
    }
    std::fs::remove_file(set.0.path()).expect("it was there");
    tokio::time::advance(Duration::from_secs(30)).await;
    admitted(&auth_rotating, ES256).await;
    set.write(&json!({ "keys": [jwk(RSA_PUBLIC, "old"), jwk(EC_PUBLIC, "new")] }).to_string());
    tokio::time::advance(Duration::from_secs(30)).await;
    admitted(&auth_rotating, RS256).await;
    admitted(&auth_rotating, ES256).await;
}
