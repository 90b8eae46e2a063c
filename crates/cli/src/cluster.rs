//! `aether node` and `aether cluster`: one node of a cluster, and the certificates that its nodes know each other by.

use crate::run::{self, ShowArgs};
use crate::{CommandResult, config_file, say};
use aether_cluster::pki;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `aether node`.
#[derive(Debug, Args)]
pub(crate) struct NodeCommand {
    /// The cluster file.
    file: PathBuf,
    /// Which of its `[[cluster.node]]` tables this is.
    #[arg(long)]
    name: String,
    /// The database, if not the file's: postgres://USER@HOST:PORT/DATABASE.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

pub(crate) fn node(args: &NodeCommand) -> CommandResult {
    let mut config = config_file::load(&args.file)?.for_member(&args.name)?;
    if let (Some(cluster), Some(store)) = (&mut config.cluster, &args.store) {
        cluster.store = store.clone();
    }
    config.check()?;
    run::show(&config, config_file::folder(&args.file), &args.show)
}

/// Certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster's certificate authority: a key that signs its nodes' certificates, and the secret that they share.
    #[command(after_help = "Example:\n  aether cluster init-ca pki --name three\n\nKeep the folder where no node is.")]
    InitCa {
        /// The folder to make.
        dir: PathBuf,
        /// The cluster's name, as in its file.
        #[arg(long)]
        name: String,
    },
    /// Make a node's certificate. Into the folder of a running node: it uses the new one from then on.
    #[command(
        after_help = "Example:\n  aether cluster issue a --ca pki --out data/three/a/identity --host 10.0.0.5 --host a.example"
    )]
    Issue {
        /// The node's name.
        name: String,
        /// The authority's folder.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// An address or name that other nodes dial.
        #[arg(long = "host", value_name = "HOST", required = true)]
        hosts: Vec<String>,
        /// For how many days.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=825))]
        days: u32,
    },
    /// What is in a node's folder, and how long it is good.
    #[command(after_help = "Example:\n  aether cluster check data/three/a/identity")]
    Check {
        /// The folder.
        dir: PathBuf,
    },
}

pub(crate) fn cluster(command: &ClusterCommand) -> CommandResult {
    match command {
        ClusterCommand::InitCa { dir, name } => {
            pki::init_ca(dir, name)?;
            say(&format!("authority of cluster {name} made in {}", dir.display()));
        }
        ClusterCommand::Issue { name, ca, out, hosts, days } => {
            let cluster = pki::authority(ca)?;
            pki::issue(ca, out, &cluster, name, hosts, *days)?;
            say(&format!("certificate of node {name} of cluster {cluster} in {}, good for {days} days", out.display()));
        }
        ClusterCommand::Check { dir } => say(&format!("{:#?}", pki::check(dir)?)),
    }
    Ok(ExitCode::SUCCESS)
}
