//! The answer to a refused request: a status, a message, and a code for programs. Never an internal detail.
//!
//! The body is Agno's, `{"detail": …}`, because its clients show it; our code and the request's id travel as the headers
//! `x-error-code` and `x-request-id`, and on `/api` in the body too. Below `/v1` the body is OpenAI's, `{"error": …}`.

use crate::guard::request::{self, Errors};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The header with the code.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// A refused or failed request.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// For programs: lower case words joined by underscores.
    pub code: &'static str,
    /// For people.
    pub detail: Detail,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The state that does not allow it, for example a run's status; on `/api` in the body as `status`.
    pub state: Option<&'static str>,
}

/// The words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// One sentence.
    Text(String),
    /// What is wrong with which fields.
    Fields(Vec<FieldProblem>),
}

/// What is wrong with one field, in FastAPI's shape. The value is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// The kind, for example `missing`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where: `["body", "message"]`, `["query", "limit"]`.
    pub loc: Vec<String>,
    /// For people.
    pub msg: String,
}

impl Problem {
    /// With this status, code and text.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: Detail::Text(detail.into()), retry_after: None, headers: Vec::new(), state: None }
    }

    /// 404 for something that does not exist, or not for this caller: both look the same.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 422 about one field.
    pub fn field(kind: &'static str, place: &str, field: &str, msg: impl Into<String>) -> Self {
        let problem = FieldProblem { kind, loc: vec![place.to_owned(), field.to_owned()], msg: msg.into() };
        Self::fields(vec![problem])
    }

    /// 422 about several fields.
    pub fn fields(problems: Vec<FieldProblem>) -> Self {
        let detail = Detail::Fields(problems);
        Self { detail, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", "") }
    }

    /// With a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says what the thing is that does not allow it.
    pub fn state(mut self, state: &'static str) -> Self {
        self.state = Some(state);
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The detail in one sentence, for where no fields can be shown.
    pub fn words(&self) -> String {
        match &self.detail {
            Detail::Text(text) => text.clone(),
            Detail::Fields(fields) => {
                let fields = fields.iter().map(|field| format!("{}: {}", field.loc.join("."), field.msg));
                fields.collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({ "detail": self.detail })
    }

    fn api_body(&self, request_id: Option<String>) -> Value {
        let mut body = self.body();
        body["error_code"] = json!(self.code);
        body["request_id"] = json!(request_id);
        if let Some(state) = self.state {
            body["status"] = json!(state);
        }
        body
    }

    /// What OpenAI's SDKs read: kind, words, code, and the parameter that is meant (`input[0].content`), if one is.
    pub fn openai(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let field = match &self.detail {
            Detail::Text(_) => None,
            Detail::Fields(fields) => fields.first(),
        };
        let code = match field.map_or(self.code, |field| field.kind) {
            "missing" => "missing_required_parameter",
            "unknown_component" => "model_not_found",
            code => code,
        };
        let message = field.map_or_else(|| self.words(), |field| field.msg.clone());
        json!({ "message": message, "type": kind, "param": field.map(FieldProblem::parameter), "code": code })
    }

    /// The status as OpenAI has it, where a parameter that is wrong is a bad request.
    fn openai_status(&self) -> StatusCode {
        if self.status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { self.status }
    }
}

impl FieldProblem {
    /// Where, as it is written in code: `input[0].content`.
    fn parameter(&self) -> String {
        let mut parameter = String::new();
        for part in self.loc.iter().skip(1) {
            if part.bytes().all(|byte| byte.is_ascii_digit()) {
                parameter.extend(["[", part, "]"]);
            } else {
                parameter.push_str(if parameter.is_empty() { "" } else { "." });
                parameter.push_str(part);
            }
        }
        parameter
    }
}

/// Tells OpenAI's SDKs whether to send a request again. By themselves they do so on a 409, which time does not change.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let request = request::current();
        let errors = request.as_ref().map(|request| request.errors);
        let (status, body) = match errors {
            Some(Errors::OpenAi) => (self.openai_status(), json!({ "error": self.openai() })),
            Some(Errors::Api) => (self.status, self.api_body(request.map(|request| request.id))),
            Some(Errors::Agno) | None => (self.status, self.body()),
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::CONFLICT && errors == Some(Errors::OpenAi) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        headers.insert(ERROR_CODE, HeaderValue::from_static(self.code));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        headers.extend(self.headers);
        response
    }
}
