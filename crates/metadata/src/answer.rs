//! What is answered to a request of a known instance.

use crate::{InstanceView, token, tree::Node};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use percent_encoding::percent_decode_str;
use std::time::{Duration, SystemTime};

/// Versions of the tree; they are equal.
const VERSIONS: [&str; 2] = ["2016-01-01", "latest"];
const TOKEN_PATH: [&str; 3] = ["latest", "api", "token"];

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token");
const TTL_HEADER: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token-ttl-seconds");
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

pub(crate) type Answer = Response<Full<Bytes>>;

/// The answer to one request of an instance.
pub(crate) fn answer(
    instance: &InstanceView,
    key: &[u8; 32],
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Answer {
    if !instance.http_enabled() {
        return refusal(StatusCode::FORBIDDEN, "The metadata service is disabled: HttpEndpoint.");
    }
    let Ok(path) = percent_decode_str(path).decode_utf8() else {
        return refusal(StatusCode::BAD_REQUEST, "The path is not UTF-8.");
    };
    // A slash at the end is welcome and means nothing.
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if path == TOKEN_PATH {
        return match *method {
            Method::PUT => new_token(instance, key, headers),
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "Tokens are made by PUT."),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "Metadata is read by GET.");
    }
    match headers.get(TOKEN_HEADER) {
        None if instance.token_required() => {
            return refusal(
                StatusCode::FORBIDDEN,
                "HttpTokens is required: PUT /latest/api/token, then send \
                 X-aliyun-ecs-metadata-token.",
            );
        }
        None => {}
        Some(token) => {
            let token = token.to_str().unwrap_or_default();
            if !token::is_valid(key, instance.instance_id(), SystemTime::now(), token) {
                return refusal(StatusCode::UNAUTHORIZED, "The token is invalid or has expired.");
            }
        }
    }
    read(instance, &path)
}

fn new_token(instance: &InstanceView, key: &[u8; 32], headers: &HeaderMap) -> Answer {
    if headers.contains_key(FORWARDED_HEADER) {
        return refusal(StatusCode::FORBIDDEN, "Tokens are not given to proxies.");
    }
    let seconds = headers
        .get(TTL_HEADER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
        .filter(|seconds| token::TTL_SECONDS.contains(seconds));
    let Some(seconds) = seconds else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "X-aliyun-ecs-metadata-token-ttl-seconds must be 1 to 21600.",
        );
    };
    let ttl = Duration::from_secs(seconds);
    match token::issue(key, instance.instance_id(), SystemTime::now(), ttl) {
        Some(token) => {
            let mut answer = text(token);
            answer.headers_mut().insert(TTL_HEADER, HeaderValue::from(seconds));
            answer
        }
        None => refusal(StatusCode::INTERNAL_SERVER_ERROR, "The host's clock is not set."),
    }
}

fn read(instance: &InstanceView, path: &[&str]) -> Answer {
    let Some((version, path)) = path.split_first() else {
        return text(VERSIONS.join("\n"));
    };
    if !VERSIONS.contains(version) {
        return not_found();
    }
    let below = |node: &Node, path: &[&str]| match node.get(path.iter().copied()) {
        Some(node) => text(node.render()),
        None => not_found(),
    };
    match path {
        [] => {
            let user_data = if instance.user_data().is_some() { "\nuser-data" } else { "" };
            text(format!("dynamic/\nmaintenance/\nmeta-data/{user_data}"))
        }
        ["user-data"] => match instance.user_data() {
            Some(data) => respond(StatusCode::OK, "application/octet-stream", data),
            None => refusal(StatusCode::NOT_FOUND, "The instance has no user data."),
        },
        // Always empty: cloud-init calls a boot degraded if it is not found.
        ["vendor-data"] => respond(StatusCode::OK, "application/octet-stream", Bytes::new()),
        ["meta-data", "all"] => {
            let json = instance.metadata().to_json().to_string();
            respond(StatusCode::OK, "application/json", json.into())
        }
        ["meta-data", rest @ ..] => below(instance.metadata(), rest),
        ["dynamic", "instance-identity", "document"] => {
            let mut answer = below(instance.others(), path);
            let json = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(CONTENT_TYPE, json);
            answer
        }
        ["dynamic", "instance-identity", "pkcs7"] => {
            refusal(StatusCode::NOT_FOUND, "This cloud does not sign identity documents.")
        }
        _ => below(instance.others(), path),
    }
}

fn text(text: String) -> Answer {
    respond(StatusCode::OK, "text/plain; charset=utf-8", text.into())
}

fn not_found() -> Answer {
    refusal(StatusCode::NOT_FOUND, "There is no such item.")
}

pub(crate) fn refusal(status: StatusCode, reason: &'static str) -> Answer {
    respond(status, "text/plain; charset=utf-8", Bytes::from(format!("{status}: {reason}\n")))
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
