//! Who a caller is and what they may do.
//!
//! ```text
//! request ──► route found ──► guard ── credential ──► Auth ──► Principal
//!             (with its Rule)   │                                  │
//!                               └── authorize(principal, rule, path parameters) ──► handler
//! ```
//! The guard is part of each route, so the path it judges is the path the router chose. The module knows no run, no
//! session and no workflow. The invariants: a route, or an action of a socket, without a [`Rule`] cannot be reached;
//! what cannot be decided is refused; no credential leaves this module in an error or a log line.

mod authenticate;
mod error;
mod guard;
#[cfg(feature = "jwt")]
pub mod jwt;
#[cfg(not(feature = "jwt"))]
#[path = "no_jwt.rs"]
mod jwt;
pub mod key;
pub(crate) mod limiter;
mod principal;
mod rules;
pub mod scope;

pub use crate::names::is_user;
pub use authenticate::Auth;
pub use error::{AuthError, AuthErrorKind};
pub use outlive_core::Secret;
pub use outlive_core::port::Access;
pub use principal::{Principal, PrincipalKind};
pub(crate) use rules::permit;
pub use rules::{Doc, Field, Needs, RouteTable, Routes, Rule, Verb, authorize};
pub use scope::Scopes;
