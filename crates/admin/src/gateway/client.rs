//! The browser client's files, in the program: nothing is built, nothing is loaded from elsewhere.
//!
//! `client/app.js` is where to start reading, `client/protocol.js` is the protocol once more. Not here: what it shows.

use crate::problem::Problem;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

macro_rules! files {
    ($($name:literal $kind:literal),* $(,)?) => {
        /// Name, type, content.
        const FILES: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("client/", $name)))),*];
    };
}

files! {
    "index.html" "text/html; charset=utf-8",
    "style.css" "text/css; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "app.js" "text/javascript; charset=utf-8",
    "connection.js" "text/javascript; charset=utf-8",
    "protocol.js" "text/javascript; charset=utf-8",
    "scene.js" "text/javascript; charset=utf-8",
    "draw.js" "text/javascript; charset=utf-8",
    "sound.js" "text/javascript; charset=utf-8",
    "elements.js" "text/javascript; charset=utf-8",
    "controls.js" "text/javascript; charset=utf-8",
}

/// Give a file.
pub(crate) async fn serve(uri: Uri) -> Response {
    let name = match uri.path() {
        "/" => "index.html",
        path => path.strip_prefix("/client/").unwrap_or_default(),
    };
    match FILES.iter().find(|(known, ..)| *known == name) {
        // Asked for again each time: another build of the node may have other files.
        Some((_, kind, text)) => ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *text).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, "the client has no such file").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::protocol;

    #[test]
    fn the_client_names_only_files_that_are_there_and_nothing_elsewhere() {
        for (name, _, text) in FILES {
            for part in text.split("/client/").skip(1) {
                let end = part.find(['"', '\'', ')', '`']).unwrap_or(part.len());
                assert!(FILES.iter().any(|(known, ..)| *known == &part[..end]), "{name} names {}", &part[..end]);
            }
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{name}");
            // The policy of the page allows neither.
            assert!(!text.contains(".innerHTML") && !text.contains(" style=\""), "{name}");
        }
    }

    #[test]
    fn the_client_speaks_this_version() {
        let (.., text) = FILES.iter().find(|(name, ..)| *name == "protocol.js").unwrap();
        assert!(text.contains(&format!("VERSION = {};", protocol::VERSION)));
    }
}
