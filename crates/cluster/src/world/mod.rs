//! One world of a node: its actor ([`actor`]), how it is read from the store ([`start`]), and what ticks ([`hosted`]).

pub(crate) mod actor;
pub(crate) mod audience;
pub(crate) mod checkpoint;
pub(crate) mod courier;
pub(crate) mod gate;
pub(crate) mod hosted;
pub(crate) mod mailbox;
pub(crate) mod pacer;
pub(crate) mod post;
pub(crate) mod show;
pub(crate) mod stage;
pub(crate) mod start;
