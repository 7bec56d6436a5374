"""servers: real postfix, exim and sendmail for the tests, and the clients that attack them."""
