//! Who looks, at which page, and how they like it.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, Request, StatusCode, Uri, request::Parts},
};

use crate::console::{
    access::{Person, cookie},
    problem::Problem,
};

/// The cookie that remembers light or dark.
pub(super) const LOOK_COOKIE: &str = "volume_reaper_look";

/// Whoever looks at a page.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    pub(super) person: Person,
    pub(super) place: Place,
}

/// Where a page is. All links are relative to it, so that a proxy may put any prefix before our paths.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// From here to the overview, such as `../`.
    pub(super) root: String,
    /// From the overview to here, such as `threads?host=a`; empty for what is no page to come back to.
    pub(super) here: String,
    pub(super) look: Look,
}

/// Light or dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Look {
    /// As the system is.
    #[default]
    System,
    Light,
    Dark,
}

impl Look {
    pub(super) const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// The look of this name; what is none is the system's.
    pub(super) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|look| look.as_str() == name).unwrap_or_default()
    }
}

impl Place {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self::at(request.method(), request.uri(), request.headers())
    }

    fn at(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().trim_start_matches('/');
        let root = root_from(path);
        let here = match uri.query() {
            _ if method != Method::GET => String::new(),
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let look = cookie(headers, LOOK_COOKIE).map(Look::named).unwrap_or_default();
        Self { root, here, look }
    }

    /// Where a page of ours is that is open, and asks for what is to stand there.
    pub(super) fn of_open_page(&self, here: String) -> Self {
        let path = here.split('?').next().unwrap_or_default();
        Self { root: root_from(path), here, look: self.look }
    }
}

fn root_from(path: &str) -> String {
    match path.matches('/').count() {
        0 => "./".to_owned(),
        depth => "../".repeat(depth),
    }
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::at(&parts.method, &parts.uri, &parts.headers))
    }
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = super::Failed;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, super::Failed> {
        let viewer = parts.extensions.get::<Self>().cloned();
        viewer.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "it is not known who asks").into())
    }
}

/// The way back to a page of ours that a form names, from a path with this root. Whatever it names stays below us: it
/// begins with a dot, so that it names neither a scheme nor a host.
pub(super) fn way_back(root: &str, here: &str) -> String {
    let is_plain = here.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let here = if is_plain { here.trim_start_matches(['/', '.']) } else { "" };
    format!("{root}{here}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(method: &Method, uri: &str) -> (String, String) {
        let place = Place::at(method, &uri.parse().expect("an address"), &HeaderMap::new());
        (place.root, place.here)
    }

    #[test]
    fn links_lead_back_to_the_root_from_every_depth() {
        assert_eq!(place(&Method::GET, "/"), ("./".to_owned(), String::new()));
        assert_eq!(place(&Method::GET, "/threads?host=a"), ("./".to_owned(), "threads?host=a".to_owned()));
        assert_eq!(place(&Method::GET, "/threads/t1"), ("../".to_owned(), "threads/t1".to_owned()));
        assert_eq!(place(&Method::POST, "/threads/t1/hold"), ("../../".to_owned(), String::new()));
    }

    #[test]
    fn a_way_back_never_leaves_us() {
        assert_eq!(way_back("./", "threads?after=a%20b"), "./threads?after=a%20b");
        let base = url::Url::parse("https://ours.example/reaper/pause").expect("an address");
        for text in
            ["//evil.example", "/\\evil.example", "https://evil.example", "\\\\evil", "../../../x", "a\r\nb", ""]
        {
            let to = base.join(&way_back("./", text)).expect("an address");
            assert!(to.as_str().starts_with("https://ours.example/reaper/"), "{text:?}: {to}");
        }
    }
}
