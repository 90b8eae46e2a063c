//! A shop. Stock is in storage, prices rise as it runs low, and other scripts buy by RPC.
//!
//! Calls and answers are text: `price bread` → `bread 3`; `buy` with `bread 2` → `ok bread 2 6` (what it cost), or
//! `sold-out bread 1` (what is left); `stock` → `bread 12, apple 30, …`. What the shop does not understand it answers with
//! `what? …`. It broadcasts `market` when something runs out and when new goods come.

use aether_script_sdk::prelude::*;

/// Seconds between deliveries.
const DELIVERY_EVERY: f32 = 30.0;

struct Goods {
    name: &'static str,
    /// What the shop holds when it is full.
    full: u32,
    /// Coins apiece when it is full; twice that when it is empty.
    price: u32,
    /// How many come with a delivery.
    delivery: u32,
}

const GOODS: [Goods; 4] = [
    Goods { name: "bread", full: 12, price: 3, delivery: 6 },
    Goods { name: "apple", full: 30, price: 1, delivery: 15 },
    Goods { name: "cheese", full: 6, price: 8, delivery: 2 },
    Goods { name: "lantern", full: 1, price: 12, delivery: 1 },
];

impl Goods {
    fn named(name: &str) -> Option<&'static Goods> {
        GOODS.iter().find(|goods| goods.name == name)
    }

    fn key(&self) -> String {
        format!("stock/{}", self.name)
    }

    /// How many there are. A shop that was never opened is full.
    fn stock(&self) -> Result<u32> {
        let kept = storage::get(&self.key())?;
        Ok(kept.and_then(|bytes| str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(self.full))
    }

    fn set_stock(&self, stock: u32) -> Result<()> {
        storage::set(&self.key(), stock.to_string().as_bytes())
    }

    /// Coins apiece with so many left, rounded up.
    fn price(&self, stock: u32) -> u32 {
        let missing = self.full.saturating_sub(stock);
        self.price + (self.price * missing).div_ceil(self.full)
    }
}

#[derive(Default)]
struct Merchant {
    since_delivery: f32,
    sales: u32,
    coins: u32,
}

impl Merchant {
    fn answer(&mut self, method: &str, request: &str) -> Result<String> {
        match method {
            "stock" => {
                let mut list = Vec::new();
                for goods in &GOODS {
                    list.push(format!("{} {}", goods.name, goods.stock()?));
                }
                Ok(list.join(", "))
            }
            "price" => match Goods::named(request) {
                Some(goods) => Ok(format!("{} {}", goods.name, goods.price(goods.stock()?))),
                None => Ok(format!("what? {request}")),
            },
            "buy" => {
                let (name, count) = request.split_once(' ').unwrap_or((request, "1"));
                match (Goods::named(name), count.parse()) {
                    (Some(goods), Ok(count @ 1..=100)) => self.sell(goods, count),
                    _ => Ok(format!("what? {request}")),
                }
            }
            _ => Ok(format!("what? {method}")),
        }
    }

    fn sell(&mut self, goods: &Goods, count: u32) -> Result<String> {
        let stock = goods.stock()?;
        let Some(left) = stock.checked_sub(count) else { return Ok(format!("sold-out {} {stock}", goods.name)) };
        let cost = goods.price(stock) * count;
        // First the books, then the goods: what cannot be written down is not sold.
        goods.set_stock(left)?;
        self.sales += 1;
        self.coins += cost;
        if left == 0 {
            let _ = network::broadcast("market", format!("sold-out {}", goods.name).as_bytes());
        }
        Ok(format!("ok {} {count} {cost}", goods.name))
    }

    fn deliver(&self) -> Result<()> {
        for goods in &GOODS {
            let stock = goods.stock()?;
            if stock < goods.full {
                goods.set_stock((stock + goods.delivery).min(goods.full))?;
            }
        }
        network::broadcast("market", b"delivery")
    }
}

impl Script for Merchant {
    fn on_start(&mut self) {
        info!("the shop is open: {}", self.answer("stock", "").unwrap_or_else(|error| error.to_string()));
    }

    fn on_tick(&mut self, dt: f32) {
        self.since_delivery += dt;
        if self.since_delivery >= DELIVERY_EVERY {
            self.since_delivery = 0.0;
            // A delivery that comes halfway is completed by the next.
            let outcome = self.deliver();
            let trouble = outcome.err().map(|error| format!(" (delivery: {error})")).unwrap_or_default();
            info!("{} sales, {} coins{trouble}", self.sales, self.coins);
        }
    }

    fn on_message(&mut self, message: Message<'_>) {
        if message.is_answer() {
            return;
        }
        let answer = self.answer(message.method, message.text()).unwrap_or_else(|error| format!("closed {error}"));
        let _ = message.reply(answer.as_bytes());
    }

    fn save_state(&mut self) -> Vec<u8> {
        Writer::new(1).f32(self.since_delivery).u32(self.sales).u32(self.coins).finish()
    }

    fn restore_state(&mut self, _from_version: u32, state: &[u8]) -> bool {
        let mut read = Reader::new(state);
        let mut restore = || {
            *self = Merchant { since_delivery: read.f32()?, sales: read.u32()?, coins: read.u32()? };
            Some(())
        };
        state.first() == Some(&1) && restore().is_some()
    }
}

export_script!(Merchant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_costs_almost_twice_the_first() {
        let bread = Goods::named("bread").unwrap();
        assert_eq!(bread.price(12), 3);
        assert_eq!(bread.price(11), 4);
        assert_eq!(bread.price(0), 6);
    }

    #[test]
    fn what_the_shop_does_not_know_is_asked_back() {
        let mut shop = Merchant::default();
        assert_eq!(shop.answer("buy", "dragon"), Ok("what? dragon".to_owned()));
        assert_eq!(shop.answer("buy", "bread -1"), Ok("what? bread -1".to_owned()));
        assert_eq!(shop.answer("juggle", ""), Ok("what? juggle".to_owned()));
    }
}
