<?php
// Where the link leads: from here on, the session says who the client is.

require __DIR__ . '/clients.php';

if (empty($_SESSION['token'])) {
    http_response_code(403);
    page('Who are you?', "<p>Please use the link that we sent you.</p>\n");
    exit;
}
$client = htmlspecialchars($_SESSION['client']);
$home = "/one-click/$_SESSION[token]";
$_SESSION['seen'] = ($_SESSION['seen'] ?? 0) + 1;
page('Your dashboard', <<<HTML
<p id="client">$client</p>
<p id="seen">$_SESSION[seen]</p>
<p><a id="order" href="$home/orders/7">Order 7</a> <a href="/logout.php">Leave</a></p>

HTML);
