//! What the program says of itself: log lines on standard error (`AETHER_LOG`), and a node's traces to an OpenTelemetry collector
//! (`[node] otlp_endpoint`).
//!
//! [`start`] once, before anything is logged; what it gives is kept until the end, so that the last spans are sent. Not here: spans
//! themselves (`aether_cluster`), metrics (`aether_admin`).

#[cfg(feature = "otlp")]
mod otlp;

use crate::style;
use aether_cluster::NodeConfig;
use std::io::IsTerminal;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Sends what is left when it is dropped.
pub(crate) struct Telemetry {
    #[cfg(feature = "otlp")]
    _exporter: Option<otlp::Exporter>,
}

/// Spans that are exported: those of the control plane, whatever `AETHER_LOG` says.
fn exported() -> Targets {
    Targets::new().with_target("aether_cluster", LevelFilter::INFO).with_target("aether_admin", LevelFilter::INFO)
}

fn log_layer() -> impl Layer<Registry> {
    let filter = EnvFilter::try_from_env("AETHER_LOG").unwrap_or_else(|_| "warn".into());
    // At `debug` it prints whole messages, and what nodes prove to each other who they are with.
    let quiet = "ractor_cluster=warn".parse().expect("this is a directive");
    let filter = if filter.to_string().contains("ractor_cluster") { filter } else { filter.add_directive(quiet) };
    let colours = std::io::stderr().is_terminal() && style::allowed();
    tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_filter(filter)
}

/// Begin. `node`: of a program that is one. `Err`: what it asks for cannot be done.
pub(crate) fn start(node: Option<&NodeConfig>) -> Result<Telemetry, Box<dyn std::error::Error>> {
    let endpoint = node.and_then(|config| Some((config, config.node.otlp_endpoint.as_deref()?)));
    #[cfg(feature = "otlp")]
    {
        let exporter = endpoint.map(|(config, endpoint)| otlp::Exporter::new(endpoint, &config.node.name)).transpose()?;
        let layer = exporter.as_ref().map(|exporter| exporter.layer().with_filter(exported()));
        // The exporter's layer is the outer one: what it does itself is logged, not exported.
        tracing_subscriber::registry().with(log_layer()).with(layer).init();
        Ok(Telemetry { _exporter: exporter })
    }
    #[cfg(not(feature = "otlp"))]
    {
        if let Some((_, endpoint)) = endpoint {
            return Err(format!(
                "node.otlp_endpoint is {endpoint:?}, but this build exports no traces: build it with --features otlp"
            )
            .into());
        }
        tracing_subscriber::registry().with(log_layer()).init();
        Ok(Telemetry {})
    }
}
