//! The table of routes: for each route, and each action of a socket, what it needs.
//!
//! A handler can be added only together with its [`Rule`]; the same [`authorize`] decides for every transport. The table
//! is data, so that documentation and tests can walk it.

use super::authenticate::Auth;
use super::guard;
use super::principal::Principal;
use crate::problem::Problem;
use axum::Router;
use axum::extract::Extension;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{self, MethodRouter};
use std::sync::Arc;

/// What a caller needs for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: no credential is looked at.
    Open,
    /// Any valid credential.
    Identity,
    /// A scope; see [`Needs::scope`].
    Scope(&'static str),
}

impl Needs {
    /// This scope.
    ///
    /// - `"config:read"`: that scope.
    /// - `"workflows:{workflow_id}:run"`: `workflows:run`, or `workflows:<id>:run` for the id in the path parameter
    ///   `workflow_id`.
    /// - `"workflows:{}:read"`: `workflows:read`, or `workflows:<id>:read` for any id. The handler shows only what
    ///   [`Principal::may`] allows.
    pub const fn scope(scope: &'static str) -> Self {
        Self::Scope(scope)
    }
}

/// How a route is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// HTTP.
    Get,
    /// HTTP.
    Post,
    /// HTTP.
    Put,
    /// HTTP.
    Patch,
    /// HTTP.
    Delete,
    /// A message of this action on the path's WebSocket.
    Message(&'static str),
}

impl Verb {
    /// The method's name in upper case, or the action.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Message(action) => action,
        }
    }
}

/// One route and what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// How it is called.
    pub method: Verb,
    /// Its path, parameters in braces: `/workflows/{workflow_id}`.
    pub path: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// What documentation says about it.
    pub doc: Doc,
}

impl Rule {
    /// The names of the path's parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        let segments = self.path.split('/');
        segments
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| name.trim_start_matches('*'))
    }

    /// Otherwise the route would be closed to everyone with a scope for one id, and nobody would notice.
    fn check(&self) {
        let Needs::Scope(scope) = self.needs else { return };
        if let Id::Parameter(name) = Wanted::read(scope).id {
            let is_there = self.parameters().any(|parameter| parameter == name);
            assert!(is_there, "the scope {scope} of {} names a parameter that the path does not have", self.path);
        }
    }
}

/// What documentation says about a route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doc {
    /// One line.
    pub summary: &'static str,
    /// The group it is shown in.
    pub tag: &'static str,
    /// Its query parameters.
    pub query: &'static [Field],
    /// The headers it looks at, beyond those of every call.
    pub headers: &'static [Field],
    /// The fields of its form; empty: takes no form.
    pub form: &'static [Field],
    /// The name of the schema of its JSON body.
    pub body: Option<&'static str>,
    /// Whether it takes requests without that body too.
    pub is_body_optional: bool,
    /// The name of the schema of its answer.
    pub answer: Option<&'static str>,
}

/// A query parameter, a header or a form field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its JSON Schema type: `string`, `integer`, `boolean` or `array`.
    pub kind: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// One line.
    pub summary: &'static str,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct RouteTable(Arc<[Rule]>);

impl RouteTable {
    /// The rules in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The rule of an action on a path's WebSocket. None: there is no such action, and it must be refused.
    pub fn message(&self, path: &str, action: &str) -> Option<&Rule> {
        self.iter().find(|rule| rule.path == path && matches!(rule.method, Verb::Message(name) if name == action))
    }
}

/// Routes with their rules, from which the router is built.
///
/// ```
/// use outlive_server::auth::{Doc, Needs, Routes};
///
/// let routes: Routes = Routes::new()
///     .get("/health", Needs::Open, async || "ok")
///     .post("/workflows/{workflow_id}/runs", Needs::scope("workflows:{workflow_id}:run"), async || "accepted")
///     .doc(Doc { summary: "Run a workflow", tag: "workflows", ..Doc::default() });
/// assert_eq!(routes.table().iter().count(), 2);
/// ```
///
/// A route without a rule does not compile, and neither does one with its handler in the rule's place:
///
/// ```compile_fail
/// # use outlive_server::auth::{Needs, Routes};
/// let routes: Routes = Routes::new().get("/health", async || "ok");
/// ```
/// ```compile_fail
/// # use outlive_server::auth::{Needs, Routes};
/// let routes: Routes = Routes::new().get("/health", async || "ok", Needs::Open);
/// ```
pub struct Routes<S = ()> {
    rules: Vec<Rule>,
    /// The handlers, each with the number of its rule. Messages have none: their socket's route handles them.
    handlers: Vec<(usize, MethodRouter<S>)>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes.
    pub fn new() -> Self {
        Self { rules: Vec::new(), handlers: Vec::new() }
    }

    /// Adds a route for `GET` (and `HEAD`).
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &'static str, needs: Needs, handler: H) -> Self {
        self.route(Verb::Get, path, needs, routing::get(handler))
    }

    /// Adds a route for `POST`.
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &'static str, needs: Needs, handler: H) -> Self {
        self.route(Verb::Post, path, needs, routing::post(handler))
    }

    /// Adds a route for `PUT`.
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &'static str, needs: Needs, handler: H) -> Self {
        self.route(Verb::Put, path, needs, routing::put(handler))
    }

    /// Adds a route for `PATCH`.
    pub fn patch<H: Handler<T, S>, T: 'static>(self, path: &'static str, needs: Needs, handler: H) -> Self {
        self.route(Verb::Patch, path, needs, routing::patch(handler))
    }

    /// Adds a route for `DELETE`.
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &'static str, needs: Needs, handler: H) -> Self {
        self.route(Verb::Delete, path, needs, routing::delete(handler))
    }

    /// Adds an action of the WebSocket at `path`. Its "path parameters" are the fields of the message that the socket
    /// hands to [`authorize`].
    pub fn message(self, path: &'static str, action: &'static str, needs: Needs) -> Self {
        self.rule(Verb::Message(action), path, needs)
    }

    /// Documents the route added last.
    pub fn doc(mut self, doc: Doc) -> Self {
        if let Some(rule) = self.rules.last_mut() {
            rule.doc = doc;
        }
        self
    }

    /// Adds the other routes.
    pub fn merge(mut self, other: Routes<S>) -> Self {
        let offset = self.rules.len();
        self.rules.extend(other.rules);
        self.handlers.extend(other.handlers.into_iter().map(|(rule, handler)| (rule + offset, handler)));
        self
    }

    /// The rules.
    pub fn table(&self) -> RouteTable {
        RouteTable(self.rules.clone().into())
    }

    /// The router. Every handler sits behind its rule; `auth` decides who a caller is.
    ///
    /// Handlers and sockets can extract [`Principal`], `Extension<Arc<Auth>>` and `Extension<RouteTable>`.
    ///
    /// # Panics
    /// When two routes have the same path and method, or a scope names a parameter that its path does not have.
    pub fn into_router(self, state: S, auth: Arc<Auth>) -> Router {
        let table = self.table();
        let mut router = Router::new();
        for (number, handler) in self.handlers {
            let rule = self.rules[number];
            rule.check();
            router = router.route(rule.path, handler.route_layer(guard::layer(rule, auth.clone())));
        }
        router
            .fallback(async || Problem::not_found("Not Found"))
            .method_not_allowed_fallback(async || {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed")
            })
            .layer(Extension(table))
            .layer(Extension(auth))
            .with_state(state)
    }

    fn route(mut self, method: Verb, path: &'static str, needs: Needs, handler: MethodRouter<S>) -> Self {
        self.handlers.push((self.rules.len(), handler));
        self.rule(method, path, needs)
    }

    fn rule(mut self, method: Verb, path: &'static str, needs: Needs) -> Self {
        let rule = Rule { method, path, needs, doc: Doc::default() };
        self.rules.push(rule);
        self
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// Decides whether a caller may use a route, for every transport.
///
/// `parameters` are the decoded path parameters, or the fields of a socket's message, that the rule names.
///
/// # Errors
/// 403 that names the missing scope.
pub fn authorize(principal: &Principal, rule: &Rule, parameters: &[(&str, &str)]) -> Result<(), Problem> {
    match rule.needs {
        Needs::Open | Needs::Identity => Ok(()),
        Needs::Scope(scope) => permit(principal, scope, parameters),
    }
}

/// Decides whether a caller has a [scope](Needs::scope), where only the request says whether it takes one.
///
/// # Errors
/// As [`authorize`].
pub(crate) fn permit(principal: &Principal, scope: &str, parameters: &[(&str, &str)]) -> Result<(), Problem> {
    let wanted = Wanted::read(scope);
    let scopes = &principal.scopes;
    let permitted = match wanted.id {
        Id::All => scopes.permits(wanted.resource, None, wanted.action),
        Id::Some => scopes.permits_some(wanted.resource, wanted.action),
        Id::Parameter(name) => {
            let id = parameters.iter().find(|(parameter, _)| *parameter == name).map(|(_, value)| *value);
            scopes.permits(wanted.resource, id, wanted.action)
        }
    };
    if permitted { Ok(()) } else { Err(insufficient(&wanted)) }
}

fn insufficient(wanted: &Wanted<'_>) -> Problem {
    let detail = format!("Insufficient permissions. Required scope(s): {}:{}", wanted.resource, wanted.action);
    Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail)
}

/// A rule's scope, taken apart.
struct Wanted<'a> {
    resource: &'a str,
    id: Id<'a>,
    action: &'a str,
}

enum Id<'a> {
    All,
    Some,
    Parameter(&'a str),
}

impl<'a> Wanted<'a> {
    fn read(scope: &'a str) -> Self {
        let (resource, rest) = scope.split_once(':').unwrap_or((scope, ""));
        match rest.split_once(':') {
            None => Self { resource, id: Id::All, action: rest },
            Some(("{}", action)) => Self { resource, id: Id::Some, action },
            Some((id, action)) => Self { resource, id: Id::Parameter(id.trim_matches(['{', '}'])), action },
        }
    }
}
