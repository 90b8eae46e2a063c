//! The dashboard's files, in the program: nothing is built, nothing is loaded from elsewhere.
//!
//! `dashboard/app.js` is where to start reading. Not here: what the pages show, which they ask of the API like anybody else.

use crate::problem::Problem;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// Where they are.
pub(crate) const PATHS: [&str; 2] = ["/", "/dashboard/{file}"];

macro_rules! files {
    ($($name:literal $kind:literal),* $(,)?) => {
        /// Name, type, content.
        const FILES: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("dashboard/", $name)))),*];
    };
}

files! {
    "index.html" "text/html; charset=utf-8",
    "style.css" "text/css; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "app.js" "text/javascript; charset=utf-8",
    "api.js" "text/javascript; charset=utf-8",
    "format.js" "text/javascript; charset=utf-8",
    "dom.js" "text/javascript; charset=utf-8",
    "charts.js" "text/javascript; charset=utf-8",
    "overview.js" "text/javascript; charset=utf-8",
    "world.js" "text/javascript; charset=utf-8",
    "scripts.js" "text/javascript; charset=utf-8",
    "events.js" "text/javascript; charset=utf-8",
    "limits.js" "text/javascript; charset=utf-8",
    "cluster.js" "text/javascript; charset=utf-8",
}

/// Give a file.
pub(crate) async fn serve(uri: Uri) -> Response {
    let name = match uri.path() {
        "/" => "index.html",
        path => path.strip_prefix("/dashboard/").unwrap_or_default(),
    };
    match FILES.iter().find(|(known, ..)| *known == name) {
        // Asked for again each time: another build of the node may have other files.
        Some((_, kind, text)) => ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *text).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, "the dashboard has no such file").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_names_only_files_that_are_there_and_nothing_elsewhere() {
        for (name, _, text) in FILES {
            for part in text.split("/dashboard/").skip(1) {
                let named: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).collect();
                assert!(FILES.iter().any(|(known, ..)| *known == named), "{name} names {named}");
            }
            for part in text.split("from './").skip(1) {
                let named = part.split('\'').next().unwrap();
                assert!(FILES.iter().any(|(known, ..)| *known == named), "{name} imports {named}");
            }
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{name} names another host");
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{name}: text is put into a page as text");
        }
    }
}
